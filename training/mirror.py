"""Scenes seen in a mirror: their descriptions, and their latents without rendering or encoding them again."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.diorama.patches import patchify, unpatchify
from training.scenes.base import SceneSpec

__all__ = ["LatentMirror", "latent_mirror", "mirrored"]

OTHER = {"left": "right", "right": "left"}
SIDE_WORD = re.compile(r"(?<![a-z])(left|right)(?![a-z])")


def mirrored(spec: SceneSpec) -> SceneSpec:
    """The description of the mirrored picture: left and right change places in whichever attribute names them."""
    texts = {f.name: getattr(spec, f.name) for f in fields(spec) if isinstance(getattr(spec, f.name), str)}
    swapped = {name: SIDE_WORD.sub(lambda word: OTHER[word[0]], text) for name, text in texts.items()}
    return replace(spec, **swapped)  # type: ignore[arg-type]


@dataclass(frozen=True)
class LatentMirror:
    """An affine map of a latent's channels, and its columns in reverse order."""

    matrix: Tensor
    """(C, C)"""
    offset: Tensor
    """(C,): of the mean patch, which need not be symmetric."""

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents (..., C, F, h, w) of a clip -> those of its mirrored clip."""
        turned = torch.einsum("dc,...cfhw->...dfhw", self.matrix, latents.flip(-1))
        return turned + self.offset[:, None, None, None]


def latent_mirror(vae: AutoencoderDiorama) -> LatentMirror:
    """Decode linearly, flip, encode: in closed form, as all three are affine.

    What it leaves out is what the flipped components have outside the space of the components: 0.01 to 0.05 % of the
    variance of four clips, as patches are as likely as their mirror images.
    """
    mean, basis, scale = vae.mean.double(), vae.basis.double(), vae.scale.double()
    flipped = _flip(basis * scale[:, None])
    return LatentMirror(
        (basis @ flipped.T / scale[:, None]).float(),
        (basis @ (_flip(mean[None])[0] - mean) / scale).float(),
    )


def _flip(patches: Tensor) -> Tensor:
    """(N, values) -> (N, values), each patch mirrored."""
    video = unpatchify(patches[:, None, None, None])
    return patchify(video.flip(-1)).flatten(0, 3)
