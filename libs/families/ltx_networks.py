"""LTX-Video's networks. Rotary positions are an input, because their scale (frame rate, size) is one of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel
from diffusers.loaders.lora_pipeline import LTXVideoLoraLoaderMixin
from torch import Tensor, nn

from libs.families.loading import load_model
from libs.families.ltx import DECODE_NOISE_SCALE, DECODE_TIMESTEP
from libs.families.modular import Module
from libs.families.network import FromConfig, Linear, Network, TensorSpec
from libs.families.windows import Margin, margin_of, with_defaults

__all__ = ["LATENT", "LTX", "PIXELS", "by_token", "decoder_margin", "decoder_sizes", "transformer_sizes"]

LATENT = ("latent_frames", "latent_height", "latent_width")
PIXELS = (Linear("latent_frames", 8, -7), Linear("latent_height", 32), Linear("latent_width", 32))


class LTXDecoder(nn.Module):
    """`AutoencoderKLLTXVideo.decode` of normalised latents and, where the decoder is one that takes it, noise."""

    def __init__(self, vae: Module) -> None:
        super().__init__()
        self.vae, self.scale = vae, DECODE_NOISE_SCALE if vae.config.timestep_conditioning else 0.0

    def forward(self, latents: Tensor, decode_noise: Tensor) -> Tensor:
        vae = self.vae
        mean, std = (values.view(1, -1, 1, 1, 1).to(latents) for values in (vae.latents_mean, vae.latents_std))
        latents = latents * std / vae.config.scaling_factor + mean
        # Also by 0: an input that is not used would fall out of the graph.
        latents = (1 - self.scale) * latents + self.scale * decode_noise
        timestep = latents.new_full((latents.shape[0],), DECODE_TIMESTEP, dtype=vae.dtype) if self.scale else None
        video: Tensor = vae.decode(latents.to(vae.dtype), timestep, return_dict=False)[0]
        return video


def by_token(timestep: Tensor, tokens: int) -> Tensor:
    """(rows,) or (rows, tokens) -> (rows, tokens): the loop of text-to-video has one for all."""
    return timestep.reshape(len(timestep), -1).expand(-1, tokens)


def transformer_sizes(width: int, height: int, num_frames: int) -> dict[str, int]:
    """The transformer's patches are single latents."""
    latent = decoder_sizes(width, height, num_frames)
    return {"video_tokens": latent["latent_frames"] * latent["latent_height"] * latent["latent_width"]}


def decoder_sizes(width: int, height: int, num_frames: int) -> dict[str, int]:
    frames = 1 + -(-(num_frames - 1) // 8)
    return {"latent_frames": frames, "latent_height": height // 32, "latent_width": width // 32}


def decoder_margin(config: Mapping[str, Any]) -> Margin | None:
    """LTX's and LTX-2's, of a whole config. None where noise is injected: each call would draw its own."""
    layers = config["decoder_layers_per_block"][::-1]
    channels = config["decoder_block_out_channels"][::-1]
    shrinks = config["upsample_factor"][::-1]
    scales = _each(config["decoder_spatio_temporal_scaling"], len(channels))[::-1]
    kinds = config.get("upsample_type", ["spatiotemporal"] * len(channels))
    if any(_each(config["decoder_inject_noise"], len(layers))):
        return None
    counts, width = [1 + 2 * layers[0]], channels[0]
    for channel, shrink, scale, kind, count in zip(channels, shrinks, scales, kinds, layers[1:], strict=True):
        if width // shrink != channel // shrink:
            counts[-1] += 2  # a residual block that changes the width
        if scale:
            counts[-1] += 1
            counts += [0] * (kind != "spatial")
        counts[-1] += 2 * count
        width = channel // shrink
    counts[-1] += 1
    return margin_of(counts, before=2, after=0) if config["decoder_causal"] else margin_of(counts, before=1, after=1)


def _each(value: Any, count: int) -> Sequence[Any]:  # noqa: ANN401  # one for all, or a list
    return value if isinstance(value, Sequence) else [value] * count


def _inputs(given: Mapping[str, Any], _: Mapping[str, Any]) -> Mapping[str, Any]:
    """Positions as the transformer would make them itself of its numbers."""
    rows, tokens, _channels = given["hidden_states"].shape
    axes = [torch.arange(given[name], dtype=torch.float32) for name in ("num_frames", "height", "width")]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    scaled = torch.stack([axis * scale for axis, scale in zip(grid, given["rope_interpolation_scale"], strict=True)])
    timestep = by_token(given["timestep"], tokens)
    return {**given, "video_coords": scaled.expand(rows, -1, -1), "timestep": timestep}


def _forward(transformer: Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return (transformer(**inputs, return_dict=False)[0],)


def _load_decoder(model_dir: Path) -> nn.Module:
    return LTXDecoder(load_model(AutoencoderKLLTXVideo, model_dir, "vae"))


LTX = {
    "transformer": Network(
        subfolder="transformer",
        load=partial(load_model, LTXVideoTransformer3DModel, subfolder="transformer"),
        lora=LTXVideoLoraLoaderMixin.lora_state_dict,
        forward=_forward,
        inputs=(
            TensorSpec("hidden_states", "float32", ("video_tokens", FromConfig("in_channels"))),
            TensorSpec("encoder_hidden_states", "float32", ("tokens", FromConfig("caption_channels"))),
            TensorSpec("encoder_attention_mask", "int64", ("tokens",)),
            TensorSpec("timestep", "float32", ("video_tokens",), keep=True),
            TensorSpec("video_coords", "float32", (3, "video_tokens"), keep=True),
        ),
        outputs=(TensorSpec("sample", "float32", ("video_tokens", FromConfig("out_channels"))),),
        sizes=transformer_sizes,
        texts=MappingProxyType({"tokens": (128, 128, 128)}),
        adapt=_inputs,
    ),
    "vae_decoder": Network(
        subfolder="vae",
        load=_load_decoder,
        forward=lambda decoder, inputs: (decoder(inputs["latents"], inputs["decode_noise"]),),
        inputs=(
            TensorSpec("latents", "float32", (FromConfig("latent_channels"), *LATENT), keep=True),
            TensorSpec("decode_noise", "float32", (FromConfig("latent_channels"), *LATENT), keep=True),
        ),
        outputs=(TensorSpec("video", "float32", (3, *PIXELS)),),
        sizes=decoder_sizes,
        margin=lambda config: decoder_margin(with_defaults(AutoencoderKLLTXVideo, config)),
    ),
}
