"""Diorama's autoencoder: a closed-form linear map of space-time patches, and a small trained decoder on top of it.

Patches of 4 frames x 16 x 16 pixels are projected on their leading principal components (PCA, fitted in
``training.autoencoder``). The components are only half whitened: component k is divided by sqrt(sd_0 * sd_k), so that
what can hardly be seen stays small against the diffusion noise. The linear inverse already shows the picture, with
block edges; a convolutional network (`residual`) adds what it leaves out.

Time is grouped as in Wan and LTX: latent frame 0 holds frame 0 alone (as a patch of four equal frames), latent frame
j > 0 holds frames 4j-3 .. 4j.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor

from libs.families.diorama.patches import FRAMES, PATCH_VALUES, PIXELS, join_first_frame, patchify, unpatchify
from libs.families.diorama.residual import ResidualDecoder

__all__ = ["FRAMES", "PATCH_VALUES", "AutoencoderDiorama", "patchify"]


class AutoencoderDiorama(ModelMixin, ConfigMixin):
    """Encodes clips of 1 + 4k frames, height and width multiples of 16, values in [-1, 1]."""

    temporal_compression_ratio = FRAMES
    spatial_compression_ratio = PIXELS

    mean: Tensor
    basis: Tensor
    scale: Tensor

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, latent_channels: int = 16, latent_width: int = 128, detail_width: int = 64, depth: int = 3
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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
        return join_first_frame(self.residual(latents, self._decode_patches(latents)))

    def decode_chunks(self, latents: Tensor, latent_frames: int = 2) -> Iterator[Tensor]:
        """`decode` in chunks (B, 3, t, 16 h, 16 w), in order, each made when it is asked for.

        ``latent_frames`` sets their length and with it the memory: t is 4 x as much but in the first and last chunks.
        """
        begun: Tensor | None = latents.new_zeros(0)
        for chunk in self.residual.stream(
            latents, lambda part: self._decode_patches(latents[:, :, part]), latent_frames
        ):
            if begun is None:
                yield chunk
                continue
            begun = torch.cat([begun, chunk], dim=2) if begun.numel() else chunk
            if begun.shape[2] >= FRAMES:
                yield join_first_frame(begun)
                begun = None

    def decode_linear(self, latents: Tensor) -> Tensor:
        """The linear part of `decode` alone: cheap, with visible block edges. For previews."""
        return join_first_frame(unpatchify(self._decode_patches(latents)))

    def _decode_patches(self, latents: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):  # in training, the residual must not mend rounding
            coefficients = latents.float().permute(0, 2, 3, 4, 1) * self.scale
            return coefficients @ self.basis + self.mean
