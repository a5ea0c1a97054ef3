"""Diorama's autoencoder: a closed-form linear map of space-time patches, and a small trained decoder on top of it.

Patches of 4 frames x 16 x 16 pixels are projected on their leading principal components (PCA, fitted in
``training.autoencoder``). The components are only half whitened: component k is divided by sqrt(sd_0 * sd_k), so that
what can hardly be seen stays small against the diffusion noise. The linear inverse already shows the picture, with block
edges; a convolutional network adds what it leaves out.

Time is grouped as in Wan and LTX: latent frame 0 holds frame 0 alone (as a patch of four equal frames), latent frame
j > 0 holds frames 4j-3 .. 4j.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

FRAMES = 4
PIXELS = 16
PATCH_VALUES = FRAMES * PIXELS * PIXELS * 3
DETAIL = 4
"""The decoder works on pixels unshuffled by this factor: 64 x 64 positions for a picture of 256 x 256."""


class AutoencoderDiorama(ModelMixin, ConfigMixin):
    """Encodes clips of 1 + 4k frames, height and width multiples of 16, values in [-1, 1]."""

    temporal_compression_ratio = FRAMES
    spatial_compression_ratio = PIXELS

    @register_to_config
    def __init__(
        self, latent_channels: int = 48, latent_width: int = 128, detail_width: int = 64, depth: int = 3
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(PATCH_VALUES))
        self.register_buffer("basis", torch.zeros(latent_channels, PATCH_VALUES))
        self.register_buffer("scale", torch.ones(latent_channels))
        self.residual = ResidualDecoder(latent_channels, latent_width, detail_width, depth)

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, 1 + 4k, H, W) -> latents (B, C, 1 + k, H / 16, W / 16)."""
        first = video[:, :, :1].expand(-1, -1, FRAMES, -1, -1)
        patches = patchify(torch.cat([first, video[:, :, 1:]], dim=2))
        coefficients = (patches - self.mean) @ self.basis.T / self.scale
        return coefficients.permute(0, 4, 1, 2, 3)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, 1 + k, h, w) -> (B, 3, 1 + 4k, 16 h, 16 w), not clamped."""
        linear = self._decode_patches(latents)
        return join_first_frame(linear + self.residual(latents, linear))

    def decode_linear(self, latents: Tensor) -> Tensor:
        """The linear part of `decode` alone: cheap, with visible block edges. For previews."""
        return join_first_frame(self._decode_patches(latents))

    def _decode_patches(self, latents: Tensor) -> Tensor:
        coefficients = latents.permute(0, 2, 3, 4, 1) * self.scale
        return unpatchify(coefficients @ self.basis + self.mean)


class ResidualDecoder(nn.Module):
    """Adds to the linear reconstruction what the latents imply but the linear map cannot draw: edges, texture, no blocks."""

    def __init__(self, latent_channels: int, latent_width: int, detail_width: int, depth: int) -> None:
        super().__init__()
        hint_channels = 16
        per_latent = FRAMES * (PIXELS // DETAIL) ** 2 * hint_channels
        self.hint_channels = hint_channels
        self.latent_in = nn.Conv3d(latent_channels, latent_width, 3, padding=1)
        self.latent_blocks = nn.ModuleList(ResidualBlock(latent_width) for _ in range(depth))
        self.latent_out = nn.Conv3d(latent_width, per_latent, 1)
        self.detail_in = nn.Conv3d(hint_channels + 3 * DETAIL**2, detail_width, (1, 3, 3), padding=(0, 1, 1))
        self.detail_blocks = nn.ModuleList(ResidualBlock(detail_width) for _ in range(depth))
        self.detail_out = nn.Conv3d(detail_width, 3 * DETAIL**2, (1, 3, 3), padding=(0, 1, 1))
        nn.init.zeros_(self.detail_out.weight)
        nn.init.zeros_(self.detail_out.bias)

    def forward(self, latents: Tensor, linear: Tensor) -> Tensor:
        """Latents (B, C, F, h, w) and the linear video (B, 3, 4F, H, W) -> what to add to it, (B, 3, 4F, H, W)."""
        hidden = self.latent_in(latents)
        for block in self.latent_blocks:
            hidden = block(hidden)
        hints = self._spread(self.latent_out(hidden))
        pixels = F.pixel_unshuffle(linear.transpose(1, 2), DETAIL).transpose(1, 2)
        hidden = self.detail_in(torch.cat([hints, pixels], dim=1))
        for block in self.detail_blocks:
            hidden = block(hidden)
        return F.pixel_shuffle(self.detail_out(hidden).transpose(1, 2), DETAIL).transpose(1, 2)

    def _spread(self, hints: Tensor) -> Tensor:
        """(B, 4 * 4 * 4 * 16, F, h, w) -> (B, 16, 4F, 4h, 4w): each latent position becomes 4 frames of 4 x 4 positions."""
        batch, _, frames, height, width = hints.shape
        side = PIXELS // DETAIL
        hints = hints.reshape(batch, self.hint_channels, FRAMES, side, side, frames, height, width)
        return hints.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(
            batch, self.hint_channels, frames * FRAMES, height * side, width * side
        )


class ResidualBlock(nn.Module):
    """Normalises each position by its root mean square (absolute brightness survives), convolves in space, then in time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.space = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1))
        self.time = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, hidden: Tensor) -> Tensor:
        rms = hidden.pow(2).mean(dim=1, keepdim=True).add(1e-6).rsqrt()
        inner = F.silu(self.space(hidden * rms * self.gain[:, None, None, None]))
        return hidden + self.time(inner)


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
