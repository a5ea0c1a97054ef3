"""Samples from a training checkpoint and draws a labelled contact sheet, to judge the training by eye.

    python -m training.look --frames 29 --out /tmp/look.png       one grammar prompt a family, short clips: quick
    python -m training.look --holdout                             the prompts outside the grammar
    python -m training.look --prompt "surf at night" --prompt "a bonfire"

Uses the checkpoints' averaged weights through the same pipelines as the services; ``--exported`` takes the model folder
as it is.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from libs.families import load_decode, load_denoise, load_encode
from libs.families.diorama.attention import use_quick_attention
from libs.families.diorama.feed_forward import use_quick_feed_forward
from training.captions import grammar_prompts, holdout_prompts
from training.scenes import FAMILIES
from training.transformer import EXPERTS, MODEL, SHIFT, load_average, newest_checkpoints

FAMILY = "diorama"
FPS = 12
SIZE = 256
FRAMES_SHOWN = 4
GAP = 6
BACKGROUND, INK, PALE = (24, 24, 27), (244, 244, 245), (161, 161, 170)


@dataclass(frozen=True)
class Sampling:
    """How clips are made. ``frames``: of the form 1 + 4 k."""

    frames: int = 61
    steps: int = 25
    guidance: float = 3.0


class Sampler:
    """Encodes, denoises and decodes in this process. Texts are encoded together, so that the encoder can go again."""

    def __init__(self, checkpoints: Mapping[str, Path], model_dir: Path = MODEL) -> None:
        """``checkpoints`` by expert; those left out are the model folder's own."""
        self._model_dir = model_dir
        experts = {name: _quick(load_average(name, path)) for name, path in checkpoints.items()}
        with tempfile.TemporaryDirectory() as folder:
            completed = _with_scheduler(model_dir, Path(folder))
            self._denoise = load_denoise(completed, FAMILY, experts)
            self._decode = load_decode(completed, FAMILY)

    def encode(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str] | None = None,
        images: Sequence[NDArray[np.uint8]] | None = None,
    ) -> list[dict[str, NDArray[Any]]]:
        """One conditioning a prompt; ``images``: first frames (H, W, 3)."""
        encode = load_encode(self._model_dir, FAMILY)
        return [
            encode(prompt, negatives[n] if negatives else "", images[n] if images else None, SIZE, SIZE, 61)
            for n, prompt in enumerate(prompts)
        ]

    def sample(
        self,
        conditioning: dict[str, NDArray[Any]],
        sampling: Sampling,
        seed: int,
        on_step: Callable[[Any], None] = lambda _: None,
    ) -> NDArray[np.uint8]:
        """Frames (T, 256, 256, 3)."""
        latents = self._denoise(
            conditioning,
            width=SIZE,
            height=SIZE,
            num_frames=sampling.frames,
            fps=FPS,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            seed=seed,
            preview_every_steps=0,
            on_step=on_step,
        )
        return np.concatenate(list(self._decode(latents, sampling.frames)))


def _quick(model: torch.nn.Module) -> torch.nn.Module:
    use_quick_attention(model)
    use_quick_feed_forward(model)
    return model.requires_grad_(False)


def _with_scheduler(model_dir: Path, folder: Path) -> Path:
    """A copy by links of the model folder, with the scheduler, which is only exported at the end of training."""
    for part in model_dir.iterdir():
        (folder / part.name).symlink_to(part.resolve())
    if not (folder / "scheduler").exists():
        scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT)
        scheduler.save_pretrained(folder / "scheduler")
    return folder


# --- the sheet -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """One clip on a sheet: four of its frames under a line of text."""

    frames: NDArray[np.uint8]
    """(4, H, W, 3)."""
    text: str
    note: str = ""
    """Second, paler text at the right of the line."""


def shown(clip: NDArray[np.uint8], count: int = FRAMES_SHOWN) -> NDArray[np.uint8]:
    """Evenly spaced frames, the first and the last among them: 0, 20, 40 and 60 of 61."""
    return clip[np.linspace(0, len(clip) - 1, count).round().astype(int)]


def contact_sheet(tiles: Sequence[Tile], columns: int = 2, side: int = 128) -> Image.Image:
    """All tiles in columns, filled row by row."""
    line, count = 20, max(len(tile.frames) for tile in tiles)
    width, height = count * side, side + line
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), BACKGROUND)
    for index, tile in enumerate(tiles):
        left, top = GAP + index % columns * (width + GAP), GAP + index // columns * (height + GAP)
        _draw_line(sheet, tile, left, top, width)
        for number, frame in enumerate(tile.frames):
            picture = Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left + number * side, top + line))
    return sheet


def _draw_line(sheet: Image.Image, tile: Tile, left: int, top: int, width: int) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    note = draw.textlength(tile.note, font)
    draw.text((left + 2, top + 2), fitted(draw, tile.text, font, width - note - 12), INK, font)
    draw.text((left + width - note - 2, top + 2), tile.note, PALE, font)


def fitted(draw: ImageDraw.ImageDraw, text: str, font: Any, width: float) -> str:  # noqa: ANN401  # two font classes
    """``text``, cut at a word with an ellipsis when it is wider than ``width``."""
    if draw.textlength(text, font) <= width:
        return text
    words = text.split()
    while len(words) > 1 and draw.textlength(" ".join(words) + " …", font) > width:
        words.pop()
    return " ".join(words) + " …"


# --- the command -----------------------------------------------------------------------------------------------------


def family_prompts(seed: int) -> list[tuple[str, str]]:
    """One grammar prompt for each family: (prompt, family)."""
    return [(prompt, spec.family) for prompt, spec in grammar_prompts(len(FAMILIES), seed)]


def main() -> None:
    arguments = _arguments()
    os.nice(arguments.nice)
    torch.set_num_threads(arguments.threads)
    sampling = Sampling(arguments.frames, arguments.steps, arguments.guidance)
    asked = _asked(arguments)
    sampler = Sampler({} if arguments.exported else arguments.checkpoint or newest_checkpoints())
    tiles: list[Tile] = []
    for index, conditioning in enumerate(sampler.encode([prompt for prompt, _ in asked])):
        prompt, family = asked[index]
        began = time.perf_counter()
        clip = sampler.sample(conditioning, sampling, arguments.seed + index)
        print(f"{index + 1}/{len(asked)} {time.perf_counter() - began:.1f} s  {family}: {prompt}", flush=True)
        tiles.append(Tile(shown(clip), prompt, family))
        contact_sheet(tiles).save(arguments.out)  # after each, so that it can be looked at early
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{arguments.out}; {sampling}; peak memory {memory:.0f} MiB")


def _checkpoint(given: str) -> tuple[str, Path]:
    name, _, path = given.partition("=")
    if name not in EXPERTS or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{given}: give {' or '.join(EXPERTS)}, '=' and a checkpoint's path")
    return name, Path(path)


def _asked(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """(prompt, family or "") pairs in the order they are drawn."""
    if arguments.prompt:
        return [(prompt, "") for prompt in arguments.prompt]
    if arguments.prompts_file:
        return [(line.strip(), "") for line in arguments.prompts_file.read_text().splitlines() if line.strip()]
    pairs = holdout_prompts() if arguments.holdout else family_prompts(arguments.prompt_seed)
    wanted = arguments.families.split(",") if arguments.families else list(FAMILIES)
    return [(prompt, family) for prompt, family in pairs if family in wanted]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--checkpoint", type=_checkpoint, action="append", help="EXPERT=PATH; default: all in training/cache"
    )
    source.add_argument("--exported", action="store_true", help="sample from models/diorama instead")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompts-file", type=Path, help="one prompt a line")
    what.add_argument("--prompt", action="append", help="may be repeated")
    what.add_argument("--holdout", action="store_true", help="the prompts outside the grammar")
    parser.add_argument("--families", default="", help="only these, with commas between")
    parser.add_argument("--prompt-seed", type=int, default=1, help="which grammar prompts")
    parser.add_argument("--seed", type=int, default=0, help="of the noise; the n-th prompt takes seed + n")
    parser.add_argument("--frames", type=int, default=61, help="1 + 4 k; 29 is quick")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--nice", type=int, default=5, help="lower priority, so that training goes on")
    parser.add_argument("--out", type=Path, default=Path("/tmp/look.png"))
    arguments = parser.parse_args()
    if (arguments.frames - 1) % 4:
        parser.error(f"--frames {arguments.frames}: give 1 + 4 k, for example 29 or 61")
    arguments.checkpoint = dict(arguments.checkpoint or ())
    if not arguments.exported and not (arguments.checkpoint or newest_checkpoints()):
        parser.error("no checkpoint in training/cache: run `python -m training.transformer train`")
    return arguments


if __name__ == "__main__":
    main()
