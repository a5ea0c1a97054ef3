"""Where a latent lies, as channels beside it.

Linear attention with a rotary embedding knows distances only, and the edge of the picture otherwise has to travel in
through the convolutions' padding, one layer at a time. With these channels every token knows its place from the first
layer on: that sky is above and ground below is then learned in minutes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["POSITION_CHANNELS", "position_channels"]

OCTAVES = 3
POSITION_CHANNELS = 1 + 2 * 2 * OCTAVES


def position_channels(frames: int, height: int, width: int) -> Tensor:
    """(13, frames, height, width) float32: 1 at latent frame 0, which holds one frame instead of four; then sine and
    cosine of y and of x, which run from 0 to pi across the picture, in three octaves."""
    first = torch.zeros(frames, height, width)
    first[0] = 1.0
    y = torch.linspace(0, torch.pi, height)[None, :, None].expand(frames, height, width)
    x = torch.linspace(0, torch.pi, width)[None, None, :].expand(frames, height, width)
    waves = [wave(2**octave * axis) for octave in range(OCTAVES) for axis in (y, x) for wave in (torch.sin, torch.cos)]
    return torch.stack([first, *waves])
