"""Checks that what `Encode` wrote fits the video that is to be denoised, before any work is spent on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.errors import FailedPrecondition

__all__ = ["check_conditioning"]

_TEXT_NAMES = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
_FIRST_FRAME = "first_frame_latents"
_MOST_TOKENS = 128


def check_conditioning(
    conditioning: Mapping[str, NDArray[Any]], components: Mapping[str, Any], width: int, height: int
) -> None:
    """Raises FailedPrecondition CONDITIONING_UNFITTING, naming the tensor and what it should be."""
    _check_names(conditioning)
    _check_text(conditioning, components["transformer"].config.caption_channels)
    if _FIRST_FRAME in conditioning:
        vae = components["vae"]
        ratio = vae.spatial_compression_ratio
        _expect(conditioning, _FIRST_FRAME, (1, vae.config.latent_channels, 1, height // ratio, width // ratio))
    for name, tensor in conditioning.items():
        if not np.isfinite(tensor).all():
            raise _unfitting(name, "holds values that are not finite")


def _check_names(conditioning: Mapping[str, NDArray[Any]]) -> None:
    for name in _TEXT_NAMES:
        if name not in conditioning:
            raise _unfitting(name, "is missing")
    for name in conditioning:
        if name not in (*_TEXT_NAMES, _FIRST_FRAME):
            raise _unfitting(name, "is not known to family diorama")


def _check_text(conditioning: Mapping[str, NDArray[Any]], channels: int) -> None:
    tokens = conditioning["prompt_embeds"].shape[1] if conditioning["prompt_embeds"].ndim == 3 else 0
    if not 1 <= tokens <= _MOST_TOKENS:
        raise _unfitting("prompt_embeds", f"must have shape (1, 1 to {_MOST_TOKENS} tokens, {channels})")
    for name in _TEXT_NAMES:
        _expect(conditioning, name, (1, tokens) if name.endswith("mask") else (1, tokens, channels))


def _expect(conditioning: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> None:
    tensor, kind = conditioning[name], "int64" if name.endswith("mask") else "float32"
    if (tensor.shape, tensor.dtype.name) != (shape, kind):
        raise _unfitting(name, f"is {tensor.dtype.name} {tensor.shape}, this video needs {kind} {shape}")


def _unfitting(name: str, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"conditioning does not fit: {name} {what}; run Encode with the same model, width, height and num_frames",
        reason="CONDITIONING_UNFITTING",
        tensor=name,
    )
