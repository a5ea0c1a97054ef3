"""The trained part of Diorama's decoder: what the linear map of patches leaves out.

A latent trunk looks at all latents at once (16 x 16 positions a latent frame: cheap); its hints, and the linear
picture, go through detail blocks (64 x 64 positions a frame: nearly all of the work). A detail block looks one frame
ahead, so with `Tail`s the frames stream through: each is computed once, in chunks of any length, with the result of the
whole.

Channels are last in memory and frames are folded into the batch: the same sums as 3-D convolutions, half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libs.families.diorama.patches import FRAMES, PIXELS

__all__ = ["ResidualBlock", "ResidualDecoder"]

DETAIL = 4
"""The detail blocks work on pixels unshuffled by this factor: 64 x 64 positions for a picture of 256 x 256."""
SIDE = PIXELS // DETAIL
PIXEL_CHANNELS = 3 * DETAIL**2
HINT_CHANNELS = 16


class ResidualDecoder(nn.Module):
    """Adds to the linear picture what the latents imply but the linear map cannot draw: edges, texture, no blocks."""

    def __init__(self, latent_channels: int, latent_width: int, detail_width: int, depth: int) -> None:
        super().__init__()
        self.latent_in = nn.Conv3d(latent_channels, latent_width, 3, padding=1)
        self.latent_blocks = nn.ModuleList(ResidualBlock(latent_width) for _ in range(depth))
        self.latent_out = nn.Conv3d(latent_width, FRAMES * SIDE**2 * HINT_CHANNELS, 1)
        self.detail_in = nn.Conv3d(HINT_CHANNELS + PIXEL_CHANNELS, detail_width, (1, 3, 3), padding=(0, 1, 1))
        self.detail_blocks = nn.ModuleList(ResidualBlock(detail_width) for _ in range(depth))
        self.detail_out = nn.Conv3d(detail_width, PIXEL_CHANNELS, (1, 3, 3), padding=(0, 1, 1))
        nn.init.zeros_(self.detail_out.weight)
        if self.detail_out.bias is not None:
            nn.init.zeros_(self.detail_out.bias)

    def forward(self, latents: Tensor, patches: Tensor) -> Tensor:
        """Latents (B, C, F, h, w) and the linear patches (B, F, h, w, 3072) -> the video (B, 3, 4F, 16h, 16w)."""
        return next(self.stream(latents, lambda part: patches[:, part], patches.shape[1]))

    def stream(self, latents: Tensor, patches_of: Callable[[slice], Tensor], latent_frames: int) -> Iterator[Tensor]:
        """`forward` in chunks (B, 3, t, 16h, 16w), in order; ``latent_frames`` >= 1 go into each.

        ``patches_of``: the linear patches of some latent frames, which take too much memory to have all at once. The
        chunks lag behind by a frame for each detail block, so the first is shorter and the last longer.
        """
        count, trunk = latents.shape[2], self._trunk(latents)
        tails = [Tail() for _ in self.detail_blocks]
        lag: Tensor | None = None
        for begin in range(0, count, latent_frames):
            part = slice(begin, begin + latent_frames)
            pixels, hints = _spread(patches_of(part)), _spread_hints(self._hints(trunk[:, part]))
            hidden = _convolve(self.detail_in, torch.cat([hints, pixels], dim=-1))
            for block, tail in zip(self.detail_blocks, tails, strict=True):
                hidden = block(hidden, tail, last=begin + latent_frames >= count)
            pixels = pixels if lag is None else torch.cat([lag, pixels], dim=1)
            done = hidden.shape[1]
            lag = pixels[:, done:]
            if done:
                yield _draw(pixels[:, :done] + _convolve(self.detail_out, hidden))

    def _trunk(self, latents: Tensor) -> Tensor:
        """(B, C, F, h, w) -> (B, F, h, w, width)."""
        hidden: Tensor = self.latent_in(latents).permute(0, 2, 3, 4, 1).contiguous()
        for block in self.latent_blocks:
            hidden = block(hidden, Tail(), last=True)
        return hidden

    def _hints(self, trunk: Tensor) -> Tensor:
        """(B, F, h, w, width) -> (B, F, h, w, 1024)."""
        return F.linear(trunk, self.latent_out.weight[:, :, 0, 0, 0], self.latent_out.bias)


@dataclass
class Tail:
    """What a block keeps of the frames that went through it, for those to come."""

    hidden: Tensor | None = None
    """The last frame: it waits for its successor."""
    inner: Tensor | None = None
    """The last two frames before the convolution in time."""

    def join(self, hidden: Tensor, inner: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """Frames (B, n, ...) that can be finished now, and what that takes: (B, n + 2, ...), one more either side."""
        none = torch.zeros_like(inner[:, :1])
        inner = torch.cat([none if self.inner is None else self.inner, inner, *([none] if last else [])], dim=1)
        hidden = hidden if self.hidden is None else torch.cat([self.hidden, hidden], dim=1)
        self.hidden, self.inner = hidden[:, -1:], inner[:, -2:]
        return hidden[:, : inner.shape[1] - 2], inner


class ResidualBlock(nn.Module):
    """Divides each position by its root mean square (brightness survives), convolves in space, then in time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.space = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1))
        self.time = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, hidden: Tensor, tail: Tail, *, last: bool) -> Tensor:
        """(B, t, H, W, C) -> the frames that can be finished, (B, n, H, W, C); all of them when it is the ``last``."""
        normed = F.rms_norm(hidden, hidden.shape[-1:], self.gain.to(hidden.dtype), 1e-6)
        hidden, inner = tail.join(hidden, F.silu(_convolve(self.space, normed)), last)
        return hidden + self._mix(inner, hidden.shape)

    def _mix(self, inner: Tensor, shape: torch.Size) -> Tensor:
        """The convolution in time, without padding, as a product a tap: a fraction of its cost in `nn.Conv3d`."""
        count, weight = shape[1], self.time.weight[:, :, :, 0, 0]
        before, now, after = (inner[:, tap : tap + count].reshape(-1, shape[-1]) for tap in range(3))
        mixed = F.linear(now, weight[:, :, 1], self.time.bias)
        mixed = torch.addmm(mixed, before, weight[:, :, 0].T)
        return torch.addmm(mixed, after, weight[:, :, 2].T).reshape(shape)


def _convolve(convolution: nn.Conv3d, hidden: Tensor) -> Tensor:
    """A (1, 3, 3) convolution of (B, t, H, W, C), frame by frame."""
    batch, count, height, width, _ = hidden.shape  # one by one: a slice of it is a constant in an ONNX export
    frames = hidden.flatten(0, 1).permute(0, 3, 1, 2)
    made = F.conv2d(frames, convolution.weight[:, :, 0], convolution.bias, padding=1)
    return made.permute(0, 2, 3, 1).reshape(batch, count, height, width, -1)


def _spread(patches: Tensor) -> Tensor:
    """(B, F, h, w, 3072) -> (B, 4F, 4h, 4w, 48): the pixels of a patch at its 4 frames of 4 x 4 positions.

    In two moves, within patches and then of them: TensorRT knows tensors of 8 dimensions at most.
    """
    batch, frames, height, width, _ = patches.shape
    within = patches.reshape(-1, 3, FRAMES, SIDE, DETAIL, SIDE, DETAIL).permute(0, 2, 3, 5, 1, 4, 6)
    split = within.reshape(batch * frames, height, width, FRAMES, SIDE, SIDE, PIXEL_CHANNELS)
    shape = batch, frames * FRAMES, height * SIDE, width * SIDE, PIXEL_CHANNELS
    return split.permute(0, 3, 1, 4, 2, 5, 6).reshape(shape)


def _spread_hints(hints: Tensor) -> Tensor:
    """(B, F, h, w, 16 * 4 * 4 * 4) -> (B, 4F, 4h, 4w, 16): each latent position becomes 4 frames of 4 x 4 positions."""
    batch, frames, height, width, _ = hints.shape
    split = hints.reshape(batch, frames, height, width, HINT_CHANNELS, FRAMES, SIDE, SIDE)
    shape = batch, frames * FRAMES, height * SIDE, width * SIDE, HINT_CHANNELS
    return split.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(shape)


def _draw(pixels: Tensor) -> Tensor:
    """(B, t, 4h, 4w, 48) -> (B, 3, t, 16h, 16w)."""
    batch, frames, height, width, _ = pixels.shape
    split = pixels.reshape(batch, frames, height, width, 3, DETAIL, DETAIL)
    shape = batch, 3, frames, height * DETAIL, width * DETAIL
    return split.permute(0, 4, 1, 2, 5, 3, 6).reshape(shape)
