"""What a model says of itself: the fields of `soundstage.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Cost", "Defaults", "Limits", "ModelCard"]

_Pixels = Annotated[int, Field(ge=16, le=8192)]
_Fps = Annotated[float, Field(ge=1, le=120)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Defaults(_Part):
    """What a request that leaves a field out gets."""

    duration_seconds: float = Field(gt=0)
    width: _Pixels
    height: _Pixels
    fps: _Fps
    num_inference_steps: int = Field(ge=1)
    fast_num_inference_steps: int = Field(ge=1)
    """Steps of the preset `fast`."""
    guidance_scale: float = Field(ge=0)


class Limits(_Part):
    """What a request may ask for."""

    min_duration_seconds: float = Field(gt=0)
    max_duration_seconds: float = Field(gt=0)
    sizes: tuple[tuple[_Pixels, _Pixels], ...] = Field(min_length=1)
    """Allowed (width, height) in pixels."""
    fps: tuple[_Fps, ...] = Field(min_length=1)
    """Allowed frame rates in frames a second."""
    max_num_inference_steps: int = Field(ge=1)


class Cost(_Part):
    """What a video costs where credits are charged. Longer, larger and faster ones cost in proportion."""

    credits: float = Field(default=10.0, ge=0, le=1_000_000)
    """Price of the default video, in credits."""
    steps_share: float = Field(default=0.7, ge=0, le=1)
    """The part of the price that grows with the number of steps; the rest pays for everything but denoising."""


class ModelCard(_Part):
    """One model: a folder in diffusers' layout with this card in it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    family: str = Field(min_length=1)
    """Row of the families table: which blocks encode, denoise and decode."""
    description: str
    image_to_video: bool
    """Takes a first frame."""
    image_required: bool = False
    """Makes nothing without one."""
    joint_audio: bool
    """Generates sound together with the picture."""
    defaults: Defaults
    limits: Limits
    cost: Cost = Cost()
    path: Path
    """The model's folder. Not in the file: where the file lies."""

    @model_validator(mode="after")
    def _defaults_are_within_limits(self) -> Self:
        defaults, limits = self.defaults, self.limits
        wrong = [
            name
            for name, within in {
                "duration_seconds": limits.min_duration_seconds
                <= defaults.duration_seconds
                <= limits.max_duration_seconds,
                "width, height": (defaults.width, defaults.height) in limits.sizes,
                "fps": defaults.fps in limits.fps,
                "num_inference_steps": defaults.num_inference_steps <= limits.max_num_inference_steps,
                "fast_num_inference_steps": defaults.fast_num_inference_steps <= limits.max_num_inference_steps,
            }.items()
            if not within
        ]
        if self.image_required and not self.image_to_video:
            raise ValueError("image_required goes with image_to_video")
        if wrong:
            raise ValueError(f"defaults outside the model's own limits: {'; '.join(wrong)}")
        return self
