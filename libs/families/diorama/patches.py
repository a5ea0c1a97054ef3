"""Space-time patches: 4 frames x 16 x 16 pixels x 3 colours each, and the still first frame in front of them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FRAMES", "PATCH_VALUES", "PIXELS", "join_first_frame", "patchify", "unpatchify"]

FRAMES = 4
PIXELS = 16
PATCH_VALUES = FRAMES * PIXELS * PIXELS * 3


def patchify(video: Tensor) -> Tensor:
    """(B, 3, 4F, 16h, 16w) -> (B, F, h, w, 3072)."""
    batch, channels, frames, height, width = video.shape
    patches = video.reshape(
        batch, channels, frames // FRAMES, FRAMES, height // PIXELS, PIXELS, width // PIXELS, PIXELS
    )
    return patches.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(
        batch, frames // FRAMES, height // PIXELS, width // PIXELS, PATCH_VALUES
    )


def unpatchify(patches: Tensor) -> Tensor:
    """The inverse of `patchify`."""
    batch, frames, height, width, _ = patches.shape
    video = patches.reshape(batch, frames, height, width, 3, FRAMES, PIXELS, PIXELS)
    return video.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(batch, 3, frames * FRAMES, height * PIXELS, width * PIXELS)


def join_first_frame(video: Tensor) -> Tensor:
    """The first four frames show one and the same: (B, 3, 4F, H, W) -> (B, 3, 4F - 3, H, W)."""
    return torch.cat([video[:, :, :FRAMES].mean(dim=2, keepdim=True), video[:, :, FRAMES:]], dim=2)
