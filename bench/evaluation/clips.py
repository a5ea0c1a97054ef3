"""What is judged: clips made by the model, each beside a rendered one of the same description where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.evaluation.asked import Asked
from libs.families import load_sound
from training.look import FAMILY, FPS, Sampler, Sampling
from training.scenes import render
from training.scenes.base import Event, SceneSpec
from training.transformer import MODEL

__all__ = ["Made", "Shown", "heard", "make", "rendered", "small"]

SMALL = 64
"""Sides at which most is measured: what the sound model sees, and all that a picture of 16 x 16 latents can promise."""


@dataclass(frozen=True)
class Shown:
    """Frames (T, H, W, 3) uint8 and sound (2, N) at 48 kHz."""

    frames: NDArray[np.uint8]
    sound: NDArray[np.float32]
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Made:
    asked: Asked
    clip: Shown
    like: Shown | None
    """Rendered from the same description."""


def make(asked: Sequence[Asked], sampler: Sampler, sampling: Sampling, seed: int) -> list[Made]:
    """The n-th clip takes seed + n. Says how far it is."""
    conditioning = sampler.encode([one.prompt for one in asked], [one.negative for one in asked])
    made = []
    for index, one in enumerate(asked):
        frames = sampler.sample(conditioning[index], sampling, seed + index)
        clip = Shown(frames, heard(frames, one.prompt, seed + index))
        made.append(Made(one, clip, rendered(one.spec, len(frames)) if one.spec else None))
        print(f"  {index + 1}/{len(asked)} {one.prompt!r}", flush=True)
    return made


def rendered(spec: SceneSpec, num_frames: int, size: int = SMALL, *, other: int = 0) -> Shown:
    """``other``: a different clip of the same description."""
    clip = render(replace(spec, seed=spec.seed + other), num_frames, FPS, size)
    frames = (clip.frames * 255).round().clip(0, 255).astype(np.uint8)
    return Shown(frames, clip.sound.astype(np.float32), tuple(clip.events))


def heard(frames: NDArray[np.uint8], prompt: str, seed: int) -> NDArray[np.float32]:
    """The trained sound for a picture."""
    made: NDArray[np.float32] = _sound()(frames, float(FPS), prompt, "full", seed)
    return made


@lru_cache(maxsize=1)
def _sound() -> Any:  # noqa: ANN401  # a SoundPipeline
    return load_sound(MODEL, FAMILY)


def small(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(T, H, W, 3) -> (T, 64, 64, 3) in 0..255, by means."""
    count, height, width, _ = frames.shape
    if (height, width) == (SMALL, SMALL):
        return frames.astype(np.float32)
    blocks = frames.reshape(count, SMALL, height // SMALL, SMALL, width // SMALL, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32)
