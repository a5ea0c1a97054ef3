"""LTX-2's networks: picture and sound in one transformer, the picture's decoder.

Rotary angles are thousands of radians: frequencies that differ from torch's in their last bits turn them by more than
an export may differ. In a graph frequencies are therefore numbers, made by torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
from diffusers.loaders.lora_pipeline import LTX2LoraLoaderMixin
from diffusers.models.transformers import transformer_ltx2
from diffusers.models.transformers.transformer_ltx2 import LTX2AudioVideoRotaryPosEmbed
from torch import Tensor, nn

from libs.families.loading import load_model
from libs.families.ltx_networks import LATENT, PIXELS, by_token, decoder_margin, decoder_sizes, transformer_sizes
from libs.families.modular import Module
from libs.families.network import FromConfig, Network, TensorSpec
from libs.families.windows import with_defaults

__all__ = ["LTX2"]

AUDIO_TOKENS = (2, 126, 501)
"""25 a second; 5 seconds are usual, 20 the most."""
TOKENS = (1, 1024, 1024)


class LTX2Decoder(nn.Module):
    """`AutoencoderKLLTX2Video.decode` of normalised latents."""

    def __init__(self, vae: Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        vae = self.vae
        mean, std = (values.view(1, -1, 1, 1, 1).to(latents) for values in (vae.latents_mean, vae.latents_std))
        latents = (latents * std / vae.config.scaling_factor + mean).to(vae.dtype)
        # No noise is added, and a decoder that asks for its level is told so.
        timestep = latents.new_zeros(latents.shape[0]) if vae.config.timestep_conditioning else None
        video: Tensor = vae.decode(latents, timestep, return_dict=False)[0]
        return video


def _inputs(given: Mapping[str, Any], config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Positions as the transformer would make them itself of its numbers."""
    rows, tokens, _ = given["hidden_states"].shape
    cpu = torch.device("cpu")
    picture = _positions(config, "video").prepare_video_coords(
        rows, given["num_frames"], given["height"], given["width"], cpu, fps=given["fps"]
    )
    sound = _positions(config, "audio").prepare_audio_coords(rows, given["audio_num_frames"], cpu)
    timestep = by_token(given["timestep"], tokens)
    return {**given, "timestep": timestep, "video_coords": picture, "audio_coords": sound}


def _positions(config: Mapping[str, Any], modality: str) -> Module:
    is_video = modality == "video"
    prefix = "" if is_video else "audio_"
    return LTX2AudioVideoRotaryPosEmbed(
        dim=config[f"{prefix}num_attention_heads"] * config[f"{prefix}attention_head_dim"],
        patch_size=config[f"{prefix}patch_size"],
        patch_size_t=config[f"{prefix}patch_size_t"],
        base_num_frames=config[f"{prefix}pos_embed_max_pos"],
        sampling_rate=config["audio_sampling_rate"],
        hop_length=config["audio_hop_length"],
        scale_factors=tuple(config["vae_scale_factors"] if is_video else [config["audio_scale_factor"]]),
        causal_offset=config["causal_offset"],
        modality=modality,
    )


def _forward(transformer: Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    outputs: tuple[Tensor, ...] = transformer(**inputs, use_cross_timestep=True, return_dict=False)
    return outputs


def traced_power(base: float, exponents: Tensor, power: Callable[..., Tensor] = torch.pow) -> Tensor:
    """`torch.pow`, of which a trace sees the numbers only. The transformer calls it for rotary frequencies alone."""
    return torch.tensor(power(base, exponents).tolist(), dtype=exponents.dtype)


def traced_split_rotary(states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Diffusers' `apply_split_rotary_emb` of (B, T, heads x 2 r) by (B, heads, T, r): that adds in place to parts of a
    tensor, which a trace loses.
    """
    cos, sin = rotary
    rows, heads, tokens, _ = (cos.shape[index] for index in range(4))
    first, second = states.reshape(rows, tokens, heads, -1).swapaxes(1, 2).float().chunk(2, dim=-1)
    turned = torch.cat([first * cos - sin * second, second * cos + sin * first], dim=-1)
    return turned.swapaxes(1, 2).reshape(rows, tokens, -1).to(states.dtype)


@contextmanager
def _tracing() -> Iterator[None]:
    with (
        patch.object(torch, "pow", traced_power),
        patch.object(transformer_ltx2, "apply_split_rotary_emb", traced_split_rotary),
    ):
        yield


def _load_decoder(model_dir: Path) -> nn.Module:
    return LTX2Decoder(load_model(AutoencoderKLLTX2Video, model_dir, "vae"))


LTX2 = {
    "transformer": Network(
        subfolder="transformer",
        load=partial(load_model, LTX2VideoTransformer3DModel, subfolder="transformer"),
        lora=LTX2LoraLoaderMixin.lora_state_dict,
        forward=_forward,
        inputs=(
            TensorSpec("hidden_states", "float32", ("video_tokens", FromConfig("in_channels"))),
            TensorSpec("audio_hidden_states", "float32", ("audio_tokens", FromConfig("audio_in_channels"))),
            TensorSpec("encoder_hidden_states", "float32", ("tokens", FromConfig("caption_channels"))),
            TensorSpec("audio_encoder_hidden_states", "float32", ("tokens", FromConfig("caption_channels"))),
            TensorSpec("encoder_attention_mask", "int64", ("tokens",)),
            TensorSpec("audio_encoder_attention_mask", "int64", ("tokens",)),
            TensorSpec("timestep", "float32", ("video_tokens",), keep=True),
            TensorSpec("audio_timestep", "float32", (1,), keep=True),
            TensorSpec("sigma", "float32", (1,), keep=True),
            TensorSpec("video_coords", "float32", (3, "video_tokens", 2), keep=True),
            TensorSpec("audio_coords", "float32", (1, "audio_tokens", 2), keep=True),
        ),
        outputs=(
            TensorSpec("sample", "float32", ("video_tokens", FromConfig("out_channels"))),
            TensorSpec("audio_sample", "float32", ("audio_tokens", FromConfig("audio_out_channels"))),
        ),
        sizes=transformer_sizes,
        texts=MappingProxyType({"tokens": TOKENS, "audio_tokens": AUDIO_TOKENS}),
        adapt=_inputs,
        tracing=_tracing,
    ),
    "vae_decoder": Network(
        subfolder="vae",
        load=_load_decoder,
        forward=lambda decoder, inputs: (decoder(inputs["latents"]),),
        inputs=(TensorSpec("latents", "float32", (FromConfig("latent_channels"), *LATENT), keep=True),),
        outputs=(TensorSpec("video", "float32", (3, *PIXELS)),),
        sizes=decoder_sizes,
        margin=lambda config: decoder_margin(with_defaults(AutoencoderKLLTX2Video, config)),
    ),
}
