"""Whether sound begins when, and comes from where, its picture says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.signal import find_peaks

from bench.evaluation.clips import Shown, heard, rendered
from libs.families.diorama.vocoder import COLUMNS_PER_FRAME
from training.captions import caption
from training.scenes import FAMILIES, sample_spec, varied
from training.scenes.base import SIDE_POSITION, SceneSpec
from training.sound_report import SHARP, balance, level, rises

LEAST_RISE_DB = 4.0
FARTHEST = 12.0
"""Frames; an event without any onset so near counts as so far off."""
SEED = 90_210


@dataclass(frozen=True)
class Synchrony:
    """Frames between an event and the nearest onset of a sound, medians."""

    events: int
    own: float
    strangers: float
    """With the sound of another clip."""
    rendered: float
    """With the sound that was rendered along: the least to be had."""
    within_one: float
    """Share of events with an onset of the made sound within one frame."""


@dataclass(frozen=True)
class Space:
    clips: int
    correlation: float
    """Of right minus left in decibels with the source's horizontal position."""
    near_over_far: float
    """Decibels between the same scenes near and far."""


def synchrony(clips: int, frames: int) -> Synchrony:
    """On rendered pictures of scenes with sudden events: only there is the moment known."""
    rng = np.random.default_rng(SEED)
    shown, made = [], []
    for family in _turns(_with_events(), clips):
        spec = sample_spec(rng, family)
        clip = rendered(spec, frames)
        shown.append(clip)
        made.append(heard(clip.frames, caption(spec, rng), SEED))
    own, strangers, best = [], [], []
    for index, clip in enumerate(shown):
        real, mine, other = (
            onsets(sound, frames) for sound in (clip.sound, made[index], made[(index + 1) % len(made)])
        )
        for frame in clear_events(clip, real, frames):
            best.append(nearest(real, frame))
            own.append(nearest(mine, frame))
            strangers.append(nearest(other, frame))
    return Synchrony(
        len(own),
        float(np.median(own)),
        float(np.median(strangers)),
        float(np.median(best)),
        float(np.mean(np.array(own) <= 1)),
    )


def clear_events(clip: Shown, real: NDArray[np.float64], frames: int) -> list[int]:
    """Frames of events that begin clearly even in the rendered sound, away from the clip's ends."""
    near_ends = [event.frame for event in clip.events if event.kind in SHARP and 3 <= event.frame < frames - 3]
    return [frame for frame in near_ends if nearest(real, frame) <= 1]


def onsets(sound: NDArray[np.float32], frames: int) -> NDArray[np.float64]:
    """Moments, in frames, at which a sound rises by `LEAST_RISE_DB`, each the highest rise within a frame."""
    peaks, _ = find_peaks(rises(sound, frames), height=LEAST_RISE_DB, distance=COLUMNS_PER_FRAME)
    return np.asarray(peaks / COLUMNS_PER_FRAME, dtype=np.float64)


def nearest(moments: NDArray[np.float64], frame: int) -> float:
    return float(min(np.abs(moments - frame).min(initial=FARTHEST), FARTHEST))


def space(clips: int, frames: int) -> Space:
    """On rendered pictures: only there is the place known."""
    rng = np.random.default_rng(SEED + 1)
    places, balances, differences = [], [], []
    for family in _turns([name for name in FAMILIES if "side" in FAMILIES[name].VARIES], clips):
        spec = _varying(rng, family, "side")
        places.append(SIDE_POSITION[spec.side])
        balances.append(balance(_heard(spec, frames, rng)))
    for family in _turns([name for name in FAMILIES if "distance" in FAMILIES[name].VARIES], clips):
        spec = _varying(rng, family, "distance")
        near, far = (level(_heard(replace(spec, distance=where), frames, rng)) for where in ("near", "far"))
        differences.append(near - far)
    return Space(len(places), float(np.corrcoef(places, balances)[0, 1]), float(np.median(differences)))


def _varying(rng: np.random.Generator, family: str, attribute: str) -> SceneSpec:
    """A description in which the attribute matters: of rain over another scene it may not."""
    spec = sample_spec(rng, family)
    return spec if attribute in varied(spec) else replace(spec, background=None)


def _heard(spec: SceneSpec, frames: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return heard(rendered(spec, frames).frames, caption(spec, rng), SEED)


def _with_events() -> list[str]:
    return ["rain", "fireworks", "lava", "sea", "pond", "fire"]


def _turns(families: Sequence[str], count: int) -> list[str]:
    return [families[index % len(families)] for index in range(count)]
