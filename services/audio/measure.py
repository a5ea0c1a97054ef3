"""What a sound measures, and what a sound must be to pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libs.errors import Internal

__all__ = ["CEILING_DBFS", "CHECKS", "SILENCE_DBFS", "Measures", "check", "limit", "measure"]

SILENCE_DBFS = -200.0
CEILING_DBFS = -1.0
"""Highest peak: AAC overshoots a little, and what passes full scale would be clipped."""


@dataclass(frozen=True)
class Measures:
    """dB relative to full scale, `SILENCE_DBFS` for digital silence; ``balance`` -1 is all left, 1 all right."""

    duration_seconds: float
    rms_dbfs: float
    peak_dbfs: float
    balance: float


def measure(sound: NDArray[np.float32], sample_rate: int) -> Measures:
    """Measures ``sound`` (2, N)."""
    energy = np.square(sound, dtype=np.float64).sum(axis=1)
    total = float(energy.sum())
    return Measures(
        duration_seconds=sound.shape[1] / sample_rate,
        rms_dbfs=_decibels(math.sqrt(total / max(1, sound.size))),
        peak_dbfs=_decibels(float(np.abs(sound).max(initial=0.0))),
        balance=float(energy[1] - energy[0]) / total if total > 0 else 0.0,
    )


CHECKS = ("shape", "finite", "silence")
"""Names that a failure of `check` may have."""


def check(sound: NDArray[np.float32], num_samples: int, *, silent: bool) -> None:
    """Raises Internal SOUND_GATE_FAILED, with ``check`` naming what failed: shape, finite or silence."""
    if sound.shape != (2, num_samples):
        raise _failed("shape", f"the model made {sound.shape}, not (2, {num_samples})")
    if not np.isfinite(sound).all():
        raise _failed("finite", "the model made samples that are not finite")
    if silent and sound.any():
        raise _failed("silence", "silence was asked for, but the model made a sound")


def limit(sound: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """``sound`` scaled so that its peak is at most `CEILING_DBFS`, and the gain in dB (0: nothing was done)."""
    excess = _decibels(float(np.abs(sound).max(initial=0.0))) - CEILING_DBFS
    if excess <= 0:
        return sound, 0.0
    return (sound * np.float32(10 ** (-excess / 20))).astype(np.float32), -excess


def _decibels(level: float) -> float:
    return max(SILENCE_DBFS, 20 * math.log10(level)) if level > 0 else SILENCE_DBFS


def _failed(name: str, wrong: str) -> Internal:
    return Internal(f"the sound failed check {name!r}: {wrong}", reason="SOUND_GATE_FAILED", check=name)
