"""The ports of the sound stage: a video-to-audio model, and what decodes the sound of a joint model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Intent", "JointSound", "SoundPipeline"]

Intent: TypeAlias = Literal["full", "ambience", "effects", "silent"]


class SoundPipeline(Protocol):
    def __call__(
        self, frames: NDArray[np.uint8], fps: float, prompt: str, intent: Intent, seed: int
    ) -> NDArray[np.float32]:
        """Frames (T, H, W, 3) -> 48 kHz sound (2, round(T / fps * 48000)) in [-1, 1]."""
        ...


@runtime_checkable
class JointSound(Protocol):
    def decode(self, latents: Mapping[str, NDArray[Any]], num_samples: int) -> NDArray[np.float32]:
        """The denoise stage's tensors -> 48 kHz sound (2, ``num_samples``) in [-1, 1].

        Raises FailedPrecondition LATENTS_UNFIT.
        """
        ...
