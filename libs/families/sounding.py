"""The port of the sound stage: what every family's video-to-audio model is called like."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Intent", "SoundPipeline"]

Intent: TypeAlias = Literal["full", "ambience", "effects", "silent"]


class SoundPipeline(Protocol):
    def __call__(
        self, frames: NDArray[np.uint8], fps: float, prompt: str, intent: Intent, seed: int
    ) -> NDArray[np.float32]:
        """Frames (T, H, W, 3) -> 48 kHz sound (2, round(T / fps * 48000)) in [-1, 1]."""
        ...
