"""Checks a request against what its model says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from libs.catalog import ModelCard
from libs.errors import FieldViolation, InvalidRequest

if TYPE_CHECKING:
    from services.denoiser.denoise import DenoiseJob

__all__ = ["check_limits"]


def check_limits(job: DenoiseJob, card: ModelCard) -> None:
    """Raises InvalidRequest OUTSIDE_MODEL_LIMITS with every field that must change."""
    violations = tuple(_violations(job, card))
    if violations:
        raise InvalidRequest(*violations, reason="OUTSIDE_MODEL_LIMITS", model=card.name)


def _violations(job: DenoiseJob, card: ModelCard) -> Iterator[FieldViolation]:
    limits = card.limits
    if (job.width, job.height) not in limits.sizes:
        sizes = ", ".join(f"{width}x{height}" for width, height in limits.sizes)
        yield FieldViolation("width", f"{job.width}x{job.height} is not a size of model {card.name}: use {sizes}")
    if job.fps not in limits.fps:
        rates = ", ".join(f"{rate:g}" for rate in limits.fps)
        yield FieldViolation("fps", f"{job.fps:g} is not a rate of model {card.name}: use {rates}")
    fewest, most = round(limits.min_duration_seconds * job.fps), round(limits.max_duration_seconds * job.fps)
    if not fewest <= job.num_frames <= most:
        yield FieldViolation(
            "num_frames", f"is {job.num_frames}: use {fewest} to {most} at {job.fps:g} frames a second"
        )
    if job.num_inference_steps > limits.max_num_inference_steps:
        what = f"is {job.num_inference_steps}: use at most {limits.max_num_inference_steps}"
        yield FieldViolation("num_inference_steps", what)
