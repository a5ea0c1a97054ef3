"""Whether a given first frame is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bench.evaluation.asked import Asked
from bench.evaluation.clips import rendered
from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.diorama.denoising import to_uint8
from training.autoencoder import MODEL, to_tensor
from training.look import SIZE, Sampler, Sampling

FRAMES = 13


@dataclass(frozen=True)
class Kept:
    """Means of PSNR in decibels."""

    to_given: float
    """Of the first frame made to the picture given."""
    to_redrawn: float
    """Of the first frame made to the autoencoder's own drawing of the picture given."""
    limit: float
    """Of that drawing to the picture given: the most to be had."""


def kept(asked: list[Asked], sampler: Sampler, sampling: Sampling, seed: int) -> Kept:
    """Gives each prompt the first frame of its rendered clip, and makes a short clip of it."""
    autoencoder = AutoencoderDiorama.from_pretrained(MODEL, low_cpu_mem_usage=False)
    pictures = [rendered(one.spec, FRAMES, SIZE).frames[0] for one in asked if one.spec is not None]
    encoded = sampler.encode([one.prompt for one in asked], images=pictures)
    rows = []
    for index, (given, conditioning) in enumerate(zip(pictures, encoded, strict=True)):
        made = sampler.sample(conditioning, Sampling(FRAMES, sampling.steps, sampling.guidance), seed + index)[0]
        drawn = redrawn(autoencoder, given)
        rows.append((psnr(made, given), psnr(made, drawn), psnr(drawn, given)))
    return Kept(*(float(column) for column in np.mean(rows, axis=0)))


@torch.inference_mode()
def redrawn(autoencoder: AutoencoderDiorama, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3), encoded and decoded again."""
    return to_uint8(autoencoder.decode(autoencoder.encode(to_tensor(picture[None])))[0])[0]


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = float(((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean())
    return float(10 * np.log10(255**2 / max(error, 1e-3)))
