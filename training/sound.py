"""Trains Diorama's video-to-audio model on the rendered clips of ``training.render``.

    python -m training.sound --minutes 15 --resume

The target is the envelope of each clip's real sound. Generated video is softer than rendered video, so frames are
softened in training as a diffusion model would: reduced to few principal components of 4 x 4 x 4 patches, blurred,
mixed over time, brightened, darkened, shifted, made noisy. Half of the clips are mirrored, with their channels and the
sides in their captions. Every two minutes the state is kept in ``training/cache/sound.pt`` and new clips are picked up.
``--further`` begins with the committed weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from libs.families.diorama.sound import DioramaSound, TextMean
from libs.families.diorama.vocoder import COLUMNS_PER_FRAME, analyse
from training.captions import caption
from training.mirror import mirrored
from training.scenes import FAMILIES
from training.scenes.base import SceneSpec

CLIPS = Path("training/cache/clips")
PREPARED = Path("training/cache/sound")
STATE = Path("training/cache/sound.pt")
MODEL = Path("models/diorama/sound")

CROP_FRAMES = 40
BATCH = 8
LEARNING_RATE = 1.5e-3
AVERAGE_DECAY = 0.995
CHECKPOINT_SECONDS = 120.0
CAPTIONS = 3
NO_TEXT_PROBABILITY = 0.15
PART_WEIGHTS = {"bands": 1.0, "columns": 0.5, "average": 0.3, "balance": 0.4}
"""What each part of `loss_of` counts."""
QUIET_DB = -85.0
"""Levels below this one are not told apart."""


@dataclass(frozen=True)
class Example:
    """One clip: frames (T, 64, 64, 3) uint8, envelope (2, 64, 16 T) float16, captions (K, 384) as given, mirrored."""

    spec: SceneSpec
    frames: np.ndarray
    envelope: np.ndarray
    text: np.ndarray
    mirrored_text: np.ndarray


def is_held_out(index: int) -> bool:
    """Families take turns in the cache: of every twenty rounds the first one is not trained on."""
    return index // len(FAMILIES) % 20 == 0


def prepare(path: Path, text: TextMean) -> Example:
    """Reads a rendered clip; its envelope and caption embeddings are computed once and kept in ``PREPARED``."""
    index = int(path.stem)
    kept = PREPARED / path.name
    with np.load(path) as clip:
        frames, meta = clip["frames64"], json.loads(str(clip["meta"]))
        spec = SceneSpec(**meta["spec"])
        if not kept.exists():
            envelope = analyse(clip["sound"].astype(np.float32) / 32767, len(frames))
            rng = np.random.default_rng([7, index])
            said = [caption(one, rng) for one in (spec, mirrored(spec)) for _ in range(CAPTIONS)]
            vectors = text(said).astype(np.float16)
            PREPARED.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".tmp.npz")
            np.savez(partial, envelope=envelope, text=vectors[:CAPTIONS], mirrored_text=vectors[CAPTIONS:])
            partial.replace(kept)
    with np.load(kept) as rest:
        return Example(spec, frames, rest["envelope"], rest["text"], rest["mirrored_text"])


def read_new(known: dict[int, Example], text: TextMean, limit: int) -> None:
    """Adds clips rendered since the last call, at most ``limit`` new ones."""
    fresh = [path for path in sorted(CLIPS.glob("[0-9]*[0-9].npz")) if int(path.stem) not in known]
    for path in fresh[:limit]:
        known[int(path.stem)] = prepare(path, text)


# --- batches ---------------------------------------------------------------------------------------------------------


def batch(examples: list[Example], no_text: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A random batch: frames (B, t, 3, 64, 64) in [0, 1], text (B, 384), levels in decibels (B, 2, 64, 16 t)."""
    frames, text, levels = zip(*(_crop(_pick(examples, rng), no_text, rng) for _ in range(BATCH)), strict=True)
    return torch.stack(frames), torch.stack(text), torch.stack(levels)


def _pick(examples: list[Example], rng: np.random.Generator) -> Example:
    return examples[int(rng.integers(len(examples)))]


def _crop(example: Example, no_text: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    count = min(CROP_FRAMES, len(example.frames))
    start = int(rng.integers(len(example.frames) - count + 1))
    frames = torch.from_numpy(example.frames[start : start + count]).permute(0, 3, 1, 2).float() / 255.0
    columns = slice(COLUMNS_PER_FRAME * start, COLUMNS_PER_FRAME * (start + count))
    levels = torch.from_numpy(example.envelope[:, :, columns].astype(np.float32))
    mirror = rng.random() < 0.5
    choices = example.mirrored_text if mirror else example.text
    text = no_text if rng.random() < NO_TEXT_PROBABILITY else choices[int(rng.integers(len(choices)))]
    if mirror:
        frames, levels = frames.flip(-1), levels.flip(0)
    return frames, torch.from_numpy(text.astype(np.float32)), levels


def patch_basis(examples: list[Example], count: int = 64) -> Tensor:
    """Principal components of 4 x 4 x 4 patches of the small frames, strongest first, (64, 192)."""
    patches = torch.cat([_patches(_floats(example)[None, :40])[0, ::7] for example in examples[:60]])
    return torch.linalg.svd(patches - patches.mean(0), full_matrices=False).Vh[:count]


def _floats(example: Example) -> Tensor:
    return torch.from_numpy(example.frames).permute(0, 3, 1, 2).float() / 255.0


def _patches(frames: Tensor) -> Tensor:
    """(B, t, 3, 64, 64) -> (B, t / 4 * 256, 192)."""
    b, t = frames.shape[:2]
    cut = frames.reshape(b, t // 4, 4, 3, 16, 4, 16, 4)
    return cut.permute(0, 1, 4, 6, 2, 3, 5, 7).reshape(b, -1, 192)


def _unpatches(patches: Tensor, count: int) -> Tensor:
    b = len(patches)
    cut = patches.reshape(b, count // 4, 16, 16, 4, 3, 4, 4)
    return cut.permute(0, 1, 4, 5, 2, 6, 3, 7).reshape(b, count, 3, 64, 64)


def soften(frames: Tensor, basis: Tensor, rng: np.random.Generator) -> Tensor:
    """Makes rendered frames (B, t, 3, 64, 64) look generated; each clip differently, a quarter of them not at all."""
    out = []
    for clip in frames:
        one = clip[None]
        if rng.random() < 0.5 and one.shape[1] % 4 == 0:
            patches, few = _patches(one), basis[: int(rng.integers(6, 40))]
            mean = patches.mean(1, keepdim=True)
            one = _unpatches((patches - mean) @ few.T @ few + mean, one.shape[1])
        if rng.random() < 0.4:
            one = one + float(rng.uniform(0.3, 1.0)) * (_blur(one, int(rng.choice((3, 5)))) - one)
        if rng.random() < 0.3:
            around = 0.5 * (one.roll(1, 1) + one.roll(-1, 1))
            around[:, 0], around[:, -1] = one[:, 0], one[:, -1]
            one = one + float(rng.uniform(0.1, 0.5)) * (around - one)
        out.append(_jitter(one, rng))
    return torch.cat(out).clamp(0, 1)


def _blur(frames: Tensor, size: int) -> Tensor:
    flat = frames.flatten(0, 1)
    return F.avg_pool2d(F.pad(flat, (size // 2,) * 4, mode="replicate"), size, 1).unflatten(0, frames.shape[:2])


def _jitter(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Contrast, brightness, tint, noise and a shift of up to two pixels; a quarter of the clips stays as it is."""
    if rng.random() < 0.25:
        return frames
    tint = torch.from_numpy(rng.normal(0, 0.02, (3, 1, 1)).astype(np.float32)) + float(rng.normal(0, 0.03))
    frames = (frames - 0.3) * float(rng.uniform(0.85, 1.15)) + 0.3 + tint
    frames = frames + float(rng.uniform(0, 0.025)) * torch.from_numpy(rng.standard_normal(frames.shape, np.float32))
    down, across = (int(step) for step in rng.integers(-2, 3, 2))
    padded = F.pad(frames.flatten(0, 1), (2, 2, 2, 2), mode="replicate")
    return padded[:, :, 2 + down : 66 + down, 2 + across : 66 + across].unflatten(0, frames.shape[:2])


# --- loss ------------------------------------------------------------------------------------------------------------


def loss_of(predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Differences in decibels, all to be small: ``bands`` of each level, ``columns`` of the loudness in each column,
    ``average`` of each band's mean power over the crop (a median in decibels alone would sound too quiet), ``balance``
    of left against right in each column, more where it is loud.

    Audible levels and onsets weigh more. Both are (B, 2, 64, columns).
    """
    target = target.clamp(min=QUIET_DB)
    loud, loud_target = _sum_db(predicted, 2), _sum_db(target, 2)
    onset = _onsets(loud_target)
    weight = (0.15 + torch.sigmoid((target + 72) / 4)) * (1 + 2 * onset[:, :, None])
    bands = (weight * (predicted - target).abs()).sum() / weight.sum()
    column_weight = 1 + 3 * onset
    columns = (column_weight * (loud - loud_target).abs()).sum() / column_weight.sum()
    average = (_mean_db(predicted) - _mean_db(target)).abs().mean()
    balance = _balance_loss(loud, loud_target)
    return {"bands": bands, "columns": columns, "average": average, "balance": balance}


def _balance_loss(loud: Tensor, loud_target: Tensor) -> Tensor:
    """Mean difference of left minus right, from loudness (B, 2, columns); the loudest columns of a clip count most."""
    total = loud_target.mean(1)
    weight = torch.sigmoid((total - total.amax(-1, keepdim=True) + 10) / 3)
    difference = (loud[:, 0] - loud[:, 1]) - (loud_target[:, 0] - loud_target[:, 1])
    return (weight * difference.abs()).sum() / weight.sum()


def _onsets(loudness: Tensor) -> Tensor:
    """1 in the columns around a rise of more than 6 dB in 20 ms, else 0: (B, 2, columns)."""
    rise = loudness - F.pad(loudness, (4, 0), mode="replicate")[..., :-4]
    return F.max_pool1d((rise > 6.0).float(), 5, stride=1, padding=2)


def _sum_db(levels: Tensor, dim: int) -> Tensor:
    return torch.logsumexp(levels * (math.log(10) / 10), dim) * (10 / math.log(10))


def _mean_db(levels: Tensor) -> Tensor:
    return _sum_db(levels, -1) - 10 * math.log10(levels.shape[-1])


@torch.inference_mode()
def evaluate(model: DioramaSound, examples: list[Example]) -> dict[str, float]:
    """Losses on whole clips as rendered, means over clips."""
    totals: dict[str, float] = {}
    for example in examples:
        text = torch.from_numpy(example.text[:1].astype(np.float32))
        target = torch.from_numpy(example.envelope.astype(np.float32))[None]
        for name, value in loss_of(model(_floats(example)[None], text), target).items():
            totals[name] = totals.get(name, 0.0) + float(value) / len(examples)
    return totals


# --- training --------------------------------------------------------------------------------------------------------


class Trainer:
    """Model, its moving average and its optimiser; a step is one batch."""

    def __init__(self, model: DioramaSound, rate: float = LEARNING_RATE) -> None:
        self.rate = rate
        self.model = model.train()
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.02)
        self.steps = 0
        self.seconds = 0.0

    def step(self, frames: Tensor, text: Tensor, target: Tensor, progress: float) -> float:
        """``progress``, 0 to 1, sets the learning rate: a short warm-up, then half a cosine. Returns the loss."""
        rate = self.rate * min(1.0, (self.steps + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        parts = loss_of(self.model(frames, text), target)
        loss = sum((PART_WEIGHTS[name] * part for name, part in parts.items()), torch.zeros(()))
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 20.0)
        self.optimiser.step()
        self.steps += 1
        decay = min(AVERAGE_DECAY, self.steps / (self.steps + 10))
        for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(new.detach(), 1 - decay)
        return float(loss.detach())

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        state = {"model": self.model.state_dict(), "average": self.average.state_dict()}
        rest = {"optimiser": self.optimiser.state_dict(), "steps": self.steps, "seconds": self.seconds}
        torch.save(state | rest, partial)
        partial.rename(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps, self.seconds = state["steps"], state["seconds"]


def train(trainer: Trainer, minutes: float, clips: int) -> None:
    """Trains until ``minutes`` in all, of every run together, are used; keeps state and reports every two minutes.

    Each run lets the learning rate fall along a cosine of its own: a resumed one starts warm again.
    """
    text, rng = TextMean(), np.random.default_rng([11, trainer.steps])
    no_text = text([""])[0]
    known: dict[int, Example] = {}
    read_new(known, text, clips)
    basis = patch_basis(_split(known)[0])
    start = last = trainer.seconds
    losses: list[float] = []
    while trainer.seconds < 60 * minutes:
        begin = time.monotonic()
        frames, said, target = batch(_split(known)[0], no_text, rng)
        progress = (trainer.seconds - start) / max(60 * minutes - start, 1.0)
        losses.append(trainer.step(soften(frames, basis, rng), said, target, progress))
        trainer.seconds += time.monotonic() - begin
        if trainer.seconds - last > CHECKPOINT_SECONDS or trainer.steps == 50:
            _report(trainer, losses, _split(known)[1])
            last, losses = trainer.seconds, []
            read_new(known, text, clips - len(known))
    _report(trainer, losses, _split(known)[1])


def _split(known: dict[int, Example]) -> tuple[list[Example], list[Example]]:
    """(trained on, held out)"""
    held = [example for index, example in sorted(known.items()) if is_held_out(index)]
    return [example for index, example in sorted(known.items()) if not is_held_out(index)], held


def _report(trainer: Trainer, losses: list[float], held_out: list[Example]) -> None:
    trainer.save(STATE)
    scores = " ".join(f"{name} {value:.2f}" for name, value in evaluate(trainer.average, held_out).items())
    mean = sum(losses) / max(len(losses), 1)
    print(f"{trainer.seconds / 60:5.1f} min, step {trainer.steps}: loss {mean:.2f}, held out {scores} dB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--clips", type=int, default=2400, help="read at most so many clips into memory (1 MB each)")
    parser.add_argument("--rate", type=float, default=LEARNING_RATE, help="highest learning rate of this run")
    parser.add_argument("--reach", type=int, default=1, help="dilation of the last block: 16 sees 2.6 s either way")
    parser.add_argument("--resume", action="store_true", help=f"go on from {STATE}")
    parser.add_argument("--further", action="store_true", help=f"begin with the weights of {MODEL}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trainer = Trainer(
        DioramaSound.from_pretrained(MODEL, torch_dtype=torch.float32)
        if arguments.further
        else DioramaSound(dilations=(1, 2, 4, 8, arguments.reach)),
        arguments.rate,
    )
    if arguments.resume and STATE.exists():
        trainer.load(STATE)
    train(trainer, arguments.minutes, arguments.clips)
    trainer.average.half().save_pretrained(MODEL)
    print(f"saved {MODEL}")


if __name__ == "__main__":
    main()
