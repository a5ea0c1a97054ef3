"""Checks what the stage before wrote, before any work is spent on it, for families that state it in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.errors import FailedPrecondition

__all__ = ["CheckConditioning", "CheckLatents", "Tensors", "conditioning_of", "latents_of"]

Tensors = Mapping[str, NDArray[Any]]
CheckConditioning = Callable[[Tensors, Mapping[str, Any], int, int], None]
"""(conditioning, denoise components, width, height); raises FailedPrecondition when they do not fit."""
CheckLatents = Callable[[Tensors, Mapping[str, Any], int], None]
"""(latents, decode components, frames to show); raises FailedPrecondition when they do not fit."""


def conditioning_of(*text: str, image: tuple[str, ...] = ()) -> CheckConditioning:
    """All of ``text``, and all or none of ``image``: one video each, finite. Raises CONDITIONING_UNFITTING."""

    def check(conditioning: Tensors, components: Mapping[str, Any], width: int, height: int) -> None:  # noqa: ARG001
        needed = text + image if any(name in conditioning for name in image) else text
        for name in needed:
            if name not in conditioning:
                raise _unfitting(name, "is missing")
        for name, tensor in conditioning.items():
            if name not in needed:
                raise _unfitting(name, "is not known to this family")
            if not np.isfinite(tensor).all():
                raise _unfitting(name, "holds values that are not finite")

    return check


def latents_of(temporal_ratio: int, *also: str) -> CheckLatents:
    """ "latents" (1, C, F, h, w) float32, finite, enough frames; ``also`` may be there. Raises LATENTS_UNFIT."""

    def check(latents: Tensors, components: Mapping[str, Any], num_frames: int) -> None:  # noqa: ARG001
        if "latents" not in latents or not set(latents) <= {"latents", *also}:
            raise _undecodable(f"the file holds {', '.join(sorted(latents)) or 'nothing'}, not latents of this family")
        tensor = latents["latents"]
        if tensor.dtype != np.float32 or tensor.ndim != 5 or len(tensor) != 1 or not tensor.size:
            raise _undecodable(f"they are {tensor.dtype} {tensor.shape}, not float32 (1, C, F, h, w)")
        held = 1 + (tensor.shape[2] - 1) * temporal_ratio
        if not 1 <= num_frames <= held:
            raise _undecodable(f"they hold {held} frames, {num_frames} were asked for; ask for 1 to {held}")
        for name, values in latents.items():
            if not np.isfinite(values).all():
                raise _undecodable(f"some values of {name} are not finite")

    return check


def _unfitting(name: str, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"conditioning does not fit: {name} {what}; run Encode with the same model, width, height and num_frames",
        reason="CONDITIONING_UNFITTING",
        tensor=name,
    )


def _undecodable(what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the latents do not fit: {what}; run Denoise with the same model, and as many frames or more",
        reason="LATENTS_UNFIT",
    )
