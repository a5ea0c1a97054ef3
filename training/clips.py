"""The rendered clips as the transformers read them: latents, and what may be said of a clip and of its mirror image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from libs.families.diorama.autoencoder import AutoencoderDiorama
from training.mentions import Values, mentions, said, values_of
from training.mirror import LatentMirror, latent_mirror, mirrored
from training.render import HELD_OUT_EVERY
from training.scenes.base import SceneSpec
from training.text import embed_captions

__all__ = ["Clips", "Description", "describe", "load_clips"]

CAPTIONS = 8
"""Of a clip, and as many of its mirror image where that is described in another way."""


@dataclass(frozen=True)
class Description:
    """Captions of one scene. Those of its mirror image are drawn with the same random numbers, so that caption k of
    the one differs from caption k of the other in left and right alone."""

    spec: SceneSpec
    captions: list[str]
    mentioning: dict[str, list[int]]
    """By attribute: the captions that mention it."""


@dataclass
class Clips:
    latents: Tensor
    """(clips, C, 16, 16, 16) float16."""
    stills: Tensor
    """(clips, C, 16, 16, 16): every fourth frame encoded as a first frame."""
    described: list[Description]
    twins: list[Description]
    """The same clips mirrored."""
    embeds: dict[str, np.ndarray]
    mirror: LatentMirror

    def window(self, index: int, start: int, length: int, *, twin: bool = False) -> Tensor:
        """A clip, or its mirrored twin, that begins at frame 4 * start: (C, length, 16, 16) float32."""
        first = self.stills[index, :, start : start + 1]
        window = torch.cat([first, self.latents[index, :, start + 1 : start + length]], dim=1).float()
        return self.mirror(window) if twin else window


def load_clips(folder: Path, vae: Path, *, held_out: bool = False, moving: bool = True) -> Clips:
    """Those that are trained on, or those held out; ``vae`` is the folder of the map that they were encoded with.

    Without ``moving``, only those whose camera stands still.
    """
    paths = [p for p in sorted(folder.glob("[0-9]*.npz")) if ".tmp" not in p.name]
    paths = [p for p in paths if (int(p.stem) % HELD_OUT_EVERY == 0) == held_out]
    latents, stills, specs, seeds = [], [], [], []
    for path in paths:
        with np.load(path) as clip:
            spec = SceneSpec(**json.loads(str(clip["meta"]))["spec"])
            if moving or spec.camera == "still":
                latents.append(torch.from_numpy(clip["latents"]))
                stills.append(torch.from_numpy(clip["still_latents"]))
                specs.append(spec)
                seeds.append(int(path.stem))
    described, twins = describe(specs, seeds)
    embeds = embed_captions({text for one in described + twins for text in one.captions})
    mirror = latent_mirror(AutoencoderDiorama.from_pretrained(vae, low_cpu_mem_usage=False))
    return Clips(torch.stack(latents), torch.stack(stills), described, twins, embeds, mirror)


def describe(specs: Sequence[SceneSpec], seeds: Sequence[int]) -> tuple[list[Description], list[Description]]:
    """Of each scene and of its mirror image, the same for the same seed."""
    others = [mirrored(spec) for spec in specs]
    values = values_of([*specs, *others])
    described = [_describe(spec, seed, values) for spec, seed in zip(specs, seeds, strict=True)]
    twins = [_describe(spec, seed, values) for spec, seed in zip(others, seeds, strict=True)]
    return described, twins


def _describe(spec: SceneSpec, seed: int, values: Values) -> Description:
    mentioning: dict[str, list[int]] = {}
    for k in range(CAPTIONS):
        for attribute in mentions(spec, (seed, k), values):
            mentioning.setdefault(attribute, []).append(k)
    return Description(spec, [said(spec, (seed, k)) for k in range(CAPTIONS)], mentioning)
