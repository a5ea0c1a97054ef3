"""python -m deploy.triton.latents HOST:PORT --model models/diorama --out eager.safetensors: a video's latents.

The loop runs here, its transformers on that server. For comparing backends: each makes the same video, the first one's
latents are what those of the others are held --against.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from deploy.triton.calibration import HELD_OUT, example_image
from deploy.triton.repository import read_card
from libs.catalog import ModelCard
from libs.families import Step, load_denoise, load_encode, load_remote_transformers
from libs.triton import TritonOptions, triton_in_thread

__all__ = ["difference"]

Tensors = Mapping[str, NDArray[Any]]
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("address")
@click.option("--model", required=True, type=FOLDER, help="With its text encoder.")
@click.option("--out", required=True, type=FILE)
@click.option("--against", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="An earlier --out.")
@click.option("--beside", default=0, help="So many other videos at the same time, with whose calls a server may merge.")
@click.option("--steps", type=int, help="Default: the model's.")
@click.option("--call-seconds", default=600.0, help="The first call may compile.")
def main(
    address: str, model: Path, out: Path, against: Path | None, beside: int, steps: int | None, call_seconds: float
) -> None:
    """Makes the model's default video, writes its latents, tells their hash and how long a step took."""
    card = read_card(model)
    steps = steps or card.defaults.num_inference_steps
    with triton_in_thread([address], TritonOptions(call_seconds, attempts=1)) as triton:
        transformers = load_remote_transformers(card.path, card.family, triton.infer)
        denoise, conditioning = load_denoise(card.path, card.family, transformers), _conditioning(card)
        with ThreadPoolExecutor(1 + beside) as threads:
            videos = [threads.submit(_video, denoise, conditioning, card, steps, seed) for seed in range(1 + beside)]
            (latents, seconds), *_ = [video.result() for video in videos]
    data = save(dict(latents))
    out.write_bytes(data)
    click.echo(f"{hashlib.sha256(data).hexdigest()}; a step {median(seconds):.4f} s ({steps} steps, first apart)")
    if against is not None:
        click.echo(f"{difference(latents, load_file(against)):.3g} standard deviations from {against} at most")


def difference(made: Tensors, expected: Tensors) -> float:
    """The largest of all tensors, in standard deviations of what was expected; 0 for equal bits."""
    return max(float(np.abs(made[name] - tensor).max() / tensor.std()) for name, tensor in expected.items())


def _conditioning(card: ModelCard) -> Tensors:
    width, height = card.defaults.width, card.defaults.height
    image = example_image(width, height, 0) if card.image_required else None
    return load_encode(card.path, card.family)(HELD_OUT, "", image, width, height, _frames(card))


def _frames(card: ModelCard) -> int:
    return round(card.defaults.duration_seconds * card.defaults.fps)


def _video(denoise: Any, conditioning: Tensors, card: ModelCard, steps: int, seed: int) -> tuple[Tensors, list[float]]:  # noqa: ANN401  # `DenoisePipeline`
    """Latents, and seconds of each step but the first."""
    seconds: list[float] = []

    def on_step(step: Step) -> None:
        if step.index > 1:
            seconds.append(step.seconds)

    latents = denoise(
        conditioning,
        width=card.defaults.width,
        height=card.defaults.height,
        num_frames=_frames(card),
        fps=card.defaults.fps,
        num_inference_steps=steps,
        guidance_scale=card.defaults.guidance_scale,
        seed=seed,
        preview_every_steps=0,
        on_step=on_step,
    )
    return latents, seconds


if __name__ == "__main__":
    main()
