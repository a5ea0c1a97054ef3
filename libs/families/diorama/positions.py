"""Where a latent lies, as channels beside it.

Linear attention with a rotary embedding knows distances only, and the edge of the picture otherwise has to travel in
through the convolutions' padding, one layer at a time. With these channels every token knows its place from the first
layer on: that sky is above and ground below is then learned in minutes. Where the camera moves, it is the place in the
scene, not in the picture (`camera.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["POSITION_CHANNELS", "position_channels"]

OCTAVES = 3
POSITION_CHANNELS = 1 + 2 * 2 * OCTAVES


def position_channels(frames: int, height: int, width: int, seen: Tensor | None = None) -> Tensor:
    """(13, frames, height, width) float32: 1 at latent frame 0, which holds one frame instead of four; then sine and
    cosine of y and of x in the scene, which run from 0 to pi across a picture that shows all of it, in three octaves.

    ``seen`` (frames, 3): left, top and width of what each latent frame shows of the scene; all of it by default.
    """
    left, top, side = (torch.tensor([[0.0, 0.0, 1.0]]).expand(frames, 3) if seen is None else seen).T[..., None, None]
    first = torch.zeros(frames, height, width)
    first[0] = 1.0
    y = _places(top, side, height)[:, :, None].expand(frames, height, width)
    x = _places(left, side, width)[:, None, :].expand(frames, height, width)
    waves = [wave(2**octave * axis) for octave in range(OCTAVES) for axis in (y, x) for wave in (torch.sin, torch.cos)]
    return torch.stack([first, *waves])


def _places(begin: Tensor, side: Tensor, count: int) -> Tensor:
    """(frames, count): middles of latents in the scene; of the first and the last of a whole scene 0 and pi."""
    middles = begin[:, 0] + side[:, 0] * (torch.arange(count) + 0.5) / count
    return (middles * count - 0.5) / max(count - 1, 1) * torch.pi
