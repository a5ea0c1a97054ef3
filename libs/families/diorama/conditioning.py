"""Checks that what the stage before wrote fits, before any work is spent on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.errors import FailedPrecondition
from libs.families.diorama.camera import CAMERAS
from libs.families.diorama.encoding import MOST_TOKENS

__all__ = ["check_conditioning", "check_latents"]

_TEXT_NAMES = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
_FIRST_FRAME = "first_frame_latents"
_CAMERA = "camera"
"""May be missing: in what an encoder of the version before wrote."""


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
    if _CAMERA in conditioning:
        _expect(conditioning, _CAMERA, (1,))
        if not 0 <= int(conditioning[_CAMERA][0]) < len(CAMERAS):
            raise _unfitting(_CAMERA, f"is {conditioning[_CAMERA][0]}, this family knows 0 to {len(CAMERAS) - 1}")
    for name, tensor in conditioning.items():
        if not np.isfinite(tensor).all():
            raise _unfitting(name, "holds values that are not finite")


def check_latents(latents: Mapping[str, NDArray[Any]], components: Mapping[str, Any], num_frames: int) -> None:
    """Raises FailedPrecondition LATENTS_UNFIT for what the model cannot decode to ``num_frames`` frames."""
    if set(latents) != {"latents"}:
        raise _undecodable(f"the file holds {', '.join(sorted(latents)) or 'nothing'}, not one tensor named latents")
    tensor, vae = latents["latents"], components["vae"]
    channels = vae.config.latent_channels
    if tensor.dtype != np.float32 or tensor.ndim != 5 or tensor.shape[:2] != (1, channels) or not tensor.size:
        raise _undecodable(
            f"they are {tensor.dtype} {tensor.shape}, this model decodes float32 (1, {channels}, F, h, w)"
        )
    held = 1 + (tensor.shape[2] - 1) * vae.temporal_compression_ratio
    if not 1 <= num_frames <= held:
        raise _undecodable(f"they hold {held} frames, {num_frames} were asked for; ask for 1 to {held}")
    if not np.isfinite(tensor).all():
        raise _undecodable("some of their values are not finite")


def _check_names(conditioning: Mapping[str, NDArray[Any]]) -> None:
    for name in _TEXT_NAMES:
        if name not in conditioning:
            raise _unfitting(name, "is missing")
    for name in conditioning:
        if name not in (*_TEXT_NAMES, _FIRST_FRAME, _CAMERA):
            raise _unfitting(name, "is not known to family diorama")


def _check_text(conditioning: Mapping[str, NDArray[Any]], channels: int) -> None:
    tokens = conditioning["prompt_embeds"].shape[1] if conditioning["prompt_embeds"].ndim == 3 else 0
    if not 1 <= tokens <= MOST_TOKENS:
        raise _unfitting("prompt_embeds", f"must have shape (1, 1 to {MOST_TOKENS} tokens, {channels})")
    for name in _TEXT_NAMES:
        _expect(conditioning, name, (1, tokens) if name.endswith("mask") else (1, tokens, channels))


def _expect(conditioning: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> None:
    tensor, kind = conditioning[name], "int64" if name.endswith(("mask", _CAMERA)) else "float32"
    if (tensor.shape, tensor.dtype.name) != (shape, kind):
        raise _unfitting(name, f"is {tensor.dtype.name} {tensor.shape}, this video needs {kind} {shape}")


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
