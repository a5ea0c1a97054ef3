"""Whether the nearer one of two sources is the louder one in a made sound.

A rendered pair of scenes says what each of its two sounds is like, band by band and moment by moment. A made sound is
explained as a sum of those two, each at a level of its own; the levels say which one is louder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.evaluation.clips import heard, rendered
from libs.families.diorama.vocoder import analyse
from training.captions import caption
from training.scenes import PAIRS, VEILS, behind, sample_spec, times
from training.scenes.base import SceneSpec

SEED = 90_310
UPDATES = 60
FLOOR = 1e-8
"""Of power, -80 dB: what is quieter than this is not heard."""

Sound = NDArray[np.float32]


@dataclass(frozen=True)
class Layers:
    clips: int
    nearer_louder: float
    """Share of clips in which the source in front is louder than the one behind it."""
    rendered: float
    """The same of the rendered sounds: the most to be had."""
    difference: float
    """Median of front over back in decibels."""


def layers(clips: int, frames: int, sound_of: Callable[[NDArray[np.uint8], str, int], Sound] = heard) -> Layers:
    """On rendered pictures of pairs in which one source is near and the other far."""
    rng = np.random.default_rng(SEED)
    pairs = [pair for pair in PAIRS if pair[0] not in VEILS]
    made, real = [], []
    for index in range(clips):
        spec = _spec(rng, *pairs[index % len(pairs)])
        both, back = rendered(spec, frames), rendered(behind(spec), frames).sound
        gain = float((both.sound * back).sum() / max(float((back**2).sum()), 1e-9))
        back = gain * back
        front = both.sound - back
        sound = sound_of(both.frames, caption(spec, rng), SEED)
        made.append(front_over_back(sound, front, back, frames))
        real.append(_decibels(front) - _decibels(back))
    return Layers(clips, float(np.mean(np.array(made) > 0)), float(np.mean(np.array(real) > 0)), float(np.median(made)))


def front_over_back(sound: Sound, front: Sound, back: Sound, frames: int) -> float:
    """Decibels of front over back in ``sound``, of which both are parts at unknown levels; all (2, N).

    Levels are those of least Kullback-Leibler divergence of the powers (Lee and Seung, 2001).
    """
    whole, *parts = (10 ** (analyse(one, frames).astype(np.float64).ravel() / 10) for one in (sound, front, back))
    basis, level = np.stack(parts), np.ones(2)
    for _ in range(UPDATES):
        level *= basis @ (whole / (level @ basis + FLOOR)) / basis.sum(axis=1)
    power = level * basis.sum(axis=1)
    return float(10 * np.log10((power[0] + FLOOR) / (power[1] + FLOOR)))


def _spec(rng: np.random.Generator, front: str, back: str) -> SceneSpec:
    """A pair whose front is near; its camera stands still, so that the parts are those of the whole."""
    spec = replace(sample_spec(rng, front), background=back, distance="near", camera="still")
    known = times(spec)
    return spec if spec.time_of_day in known else replace(spec, time_of_day=known[0])  # type: ignore[arg-type]


def _decibels(sound: Sound) -> float:
    return float(10 * np.log10((sound**2).mean() + FLOOR))
