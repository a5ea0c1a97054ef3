"""Lets the trained transformer draw rendered clips again, so that the decoder learns from latents like generated ones.

    python -m training.redraw

Noise is added up to some sigma and taken away again step by step (SDEdit, Meng et al. 2022): the layout stays, details
become the transformer's own. Writes ``training/cache/drawn_again.npy``, float16 (clips, variants, C, 4, 16, 16), which
the decoder's training reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from libs.families.diorama.attention import use_quick_attention
from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.diorama.feed_forward import use_quick_feed_forward
from libs.families.diorama.positions import position_channels
from training.autoencoder import CACHE, CLIP_SEED, MODEL, decoder_clips, decoder_specs, to_tensor
from training.captions import caption
from training.text import embed_captions, pad
from training.transformer import load_average

SIGMAS = (0.3, 0.45, 0.6, 0.75)
"""One variant each. From more noise, little of the rendered clip would be left to learn from."""
STEP = 0.08
"""Of sigma, a little coarser than the service's steps."""


def main() -> None:
    clips = decoder_clips(CACHE)
    rng = np.random.default_rng(CLIP_SEED)
    captions = [caption(spec, rng) for spec in decoder_specs(len(clips))]
    model = load_average()
    use_quick_attention(model)
    use_quick_feed_forward(model)
    autoencoder = AutoencoderDiorama.from_pretrained(MODEL, low_cpu_mem_usage=False)
    drawn = redraw(model, autoencoder, clips, captions, embed_captions)
    _save(CACHE / "drawn_again.npy", drawn)


@torch.inference_mode()
def redraw(
    model: torch.nn.Module,
    autoencoder: AutoencoderDiorama,
    clips: np.ndarray,
    captions: Sequence[str],
    embed: Callable[[set[str]], dict[str, np.ndarray]],
) -> np.ndarray:
    """uint8 clips (N, T, H, W, 3) with a caption each -> float16 latents (N, variants, C, F, H / 16, W / 16)."""
    embeds = embed(set(captions))
    made = []
    for index, (frames, said) in enumerate(zip(clips, captions, strict=True)):
        text = pad([embeds[said]])
        latents = autoencoder.encode(to_tensor(np.array(frames)))
        generator = torch.Generator().manual_seed(index)
        variants = [_draw_from(model, latents, text, sigma, generator) for sigma in SIGMAS]
        made.append(torch.cat(variants).half().numpy())
        if index % 40 == 0:
            print(f"redraw: {index} of {len(clips)}", flush=True)
    return np.stack(made)


def _draw_from(
    model: torch.nn.Module, latents: Tensor, text: tuple[Tensor, Tensor], sigma: float, generator: torch.Generator
) -> Tensor:
    """Euler steps from ``sigma`` to 0, without guidance: the service has none at low sigma either."""
    _, channels, frames, height, width = latents.shape
    unconditioned = torch.zeros(1, 1 + channels, frames, height, width)
    place = position_channels(frames, height, width)[None]
    noise = torch.randn(latents.shape, generator=generator)
    drawn = torch.lerp(latents, noise, sigma)
    sigmas = np.linspace(sigma, 0, 1 + round(sigma / STEP))
    for now, then in pairwise(sigmas):
        clean = model(
            torch.cat([drawn, unconditioned, place], dim=1),
            encoder_hidden_states=text[0],
            timestep=torch.tensor([now * 1000], dtype=torch.float32),
            encoder_attention_mask=text[1],
            return_dict=False,
        )[0]
        drawn = torch.lerp(clean.float(), drawn, float(then / now))
    return drawn


def _save(path: Path, drawn: np.ndarray) -> None:
    partial = path.with_suffix(".tmp.npy")
    np.save(partial, drawn)
    partial.replace(path)


if __name__ == "__main__":
    main()
