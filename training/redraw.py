"""What Diorama makes of rendered clips: the same happens at the same time, but drawn as Diorama draws.

    python -m training.redraw --clips 1000

Noise is added to a clip's latents and taken away again by the exported experts in a few steps (SDEdit, Meng et al.
2022). `training.sound` then learns to hear these pictures, too: generated ones are what it is given later. Writes
``training/cache/redrawn/{index:05d}.npy``, frames (T, 64, 64, 3) uint8; a clip that exists is not redrawn.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers.models.transformers.transformer_sana_video import SanaVideoTransformer3DModel
from numpy.typing import NDArray
from torch import Tensor, nn

from libs.families.diorama.attention import use_quick_attention
from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.diorama.camera import Windows, latent_windows
from libs.families.diorama.denoising import BOUNDARY, to_uint8
from libs.families.diorama.feed_forward import use_quick_feed_forward
from libs.families.diorama.positions import position_channels
from training.autoencoder import LATENT_CHANNELS
from training.precision import mixed_precision
from training.render import CLIPS, NUM_FRAMES
from training.scenes.base import SceneSpec
from training.scenes.camera import seen_of
from training.sound import REDRAWN
from training.text import TextEncoder, pad
from training.transformer import EXPERTS, MODEL

__all__ = ["Redrawer", "redraw"]

SIGMAS = (0.45, 0.8)
"""How much noise is added: at more than that, what happens when is no longer that of the clip, nor of its sound."""
STEPS = 4
PIXELS = 64


class Redrawer:
    def __init__(self, model: Path = MODEL) -> None:
        self._experts = {name: _load(model / name) for name in EXPERTS}
        self._autoencoder = AutoencoderDiorama.from_pretrained(model / "vae", low_cpu_mem_usage=False)
        self._encode = TextEncoder()

    @torch.inference_mode()
    def __call__(self, latents: Tensor, seen: Windows, caption: str, seed: int) -> NDArray[np.uint8]:
        """Latents (C, F, h, w) of a clip -> frames (1 + 4 (F - 1), 64, 64, 3). The same seed gives the same frames.

        ``seen``: what the frames show of the scene, see `libs.families.diorama.camera`.
        """
        generator = torch.Generator().manual_seed(seed)
        least, most = SIGMAS
        sigma = least + (most - least) * float(torch.rand((), generator=generator))
        noisy = torch.lerp(latents[None], torch.randn(latents[None].shape, generator=generator), sigma)
        frames, height, width = latents.shape[1:]
        place = position_channels(frames, height, width, torch.from_numpy(latent_windows(seen)))[None]
        clean = self._denoise(noisy, np.linspace(sigma, 0.0, STEPS + 1).tolist(), place, caption)
        drawn = to_uint8(self._autoencoder.decode_linear(clean)[0])
        count, side = drawn.shape[:2]
        fields = drawn.reshape(count, PIXELS, side // PIXELS, PIXELS, side // PIXELS, 3)
        return fields.mean(axis=(2, 4)).round().astype(np.uint8)

    def _denoise(self, latents: Tensor, sigmas: list[float], place: Tensor, caption: str) -> Tensor:
        """By Euler's method, without guidance and without a first frame."""
        embeds, mask = pad(self._encode([caption]))
        nothing_given = torch.zeros(1, 1 + LATENT_CHANNELS, *latents.shape[2:])
        beside = torch.cat([nothing_given, place], dim=1)
        for sigma, following in pairwise(sigmas):
            name = "transformer" if sigma >= BOUNDARY else "transformer_2"
            with mixed_precision():
                predicted = self._experts[name](
                    torch.cat([latents, beside], dim=1),
                    encoder_hidden_states=embeds,
                    timestep=torch.tensor([sigma * 1000]),
                    encoder_attention_mask=mask,
                    return_dict=False,
                )[0].float()
            velocity = (latents - predicted) / sigma if EXPERTS[name].predicts == "clean" else predicted
            latents = latents + (following - sigma) * velocity
        return latents


def _load(folder: Path) -> nn.Module:
    model = SanaVideoTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float32, low_cpu_mem_usage=False)
    use_quick_attention(model)
    use_quick_feed_forward(model)
    return model.eval()


def redraw(path: Path, redrawer: Redrawer, folder: Path = REDRAWN) -> None:
    """One rendered clip, if that is not done yet."""
    kept = folder / f"{path.stem}.npy"
    if kept.exists():
        return
    with np.load(path) as clip:
        latents, meta = torch.from_numpy(clip["latents"]).float(), json.loads(str(clip["meta"]))
    index, captions = int(path.stem), meta["captions"]
    seen = seen_of(SceneSpec(**meta["spec"]), NUM_FRAMES, take=False)
    partial = kept.with_suffix(".tmp.npy")
    np.save(partial, redrawer(latents, seen, captions[index % len(captions)], index))
    partial.replace(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000, help="the first so many of those rendered")
    arguments = parser.parse_args()
    REDRAWN.mkdir(parents=True, exist_ok=True)
    redrawer, begun = Redrawer(), time.monotonic()
    paths = sorted(path for path in CLIPS.glob("[0-9]*.npz") if ".tmp" not in path.name)[: arguments.clips]
    for number, path in enumerate(paths, 1):
        redraw(path, redrawer)
        if number % 100 == 0:
            print(f"redrawn {number} of {len(paths)} in {(time.monotonic() - begun) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
