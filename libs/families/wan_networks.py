"""Wan's networks: both experts of the 14B models, the 5B model's transformer, their decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.lora_pipeline import WanLoraLoaderMixin
from diffusers.models.autoencoders.autoencoder_kl_wan import WanUpsample, unpatchify
from torch import Tensor, nn

from libs.families.loading import load_model
from libs.families.modular import Module
from libs.families.network import FromConfig, Linear, Network, Product, TensorSpec
from libs.families.windows import Margin, margin_of, with_defaults

__all__ = ["WAN", "WAN_5B"]

LATENT = ("latent_frames", "latent_height", "latent_width")
PATCH = 4
"""Latents in a token, 1x2x2, of all models of these families."""
TOKENS = (512, 512, 512)
"""The text encoder's blocks pad every prompt to this many."""


class WholeUpsample(nn.Module):
    """Diffusers' upsampling in time, of all frames at once: its own form goes through a video frame by frame.

    The first frame is not doubled, and is not seen when the others are.
    """

    def __init__(self, stepwise: Module) -> None:
        super().__init__()
        self.time_conv, self.resample = stepwise.time_conv, stepwise.resample

    def forward(self, frames: Tensor) -> Tensor:
        rows, channels, _, height, width = frames.shape
        first = frames[:, :, :1]
        unseen = torch.cat([torch.zeros_like(first), frames[:, :, 1:]], dim=2)
        pairs = self.time_conv(unseen).reshape(rows, 2, channels, -1, height, width)
        doubled = torch.stack([pairs[:, 0], pairs[:, 1]], dim=3).flatten(2, 3)
        frames = torch.cat([first, doubled[:, :, 2:]], dim=2).transpose(1, 2)
        enlarged: Tensor = self.resample(frames.flatten(0, 1))
        return enlarged.reshape(rows, -1, *enlarged.shape[1:]).transpose(1, 2)


class WanDecoder(nn.Module):
    """`AutoencoderKLWan.decode` of normalised latents, as one pass over all its frames: a graph has no memory between
    frames. It therefore needs memory for all of a window.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vae: Module) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder, self.patch = vae.post_quant_conv, vae.decoder, vae.config.patch_size
        mean, std = (torch.tensor(values) for values in (vae.config.latents_mean, vae.config.latents_std))
        self.register_buffer("mean", mean.view(1, -1, 1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1, 1))
        for block in vae.decoder.up_blocks:
            if getattr(block, "upsamplers", None) is not None:
                block.upsamplers[0] = _whole(block.upsamplers[0])
            if getattr(block, "upsampler", None) is not None:
                block.upsampler = _whole(block.upsampler)
        for part in vae.decoder.modules():
            if isinstance(part, WanUpsample):
                part.mode = "nearest"  # the same as "nearest-exact" when sides double, and ONNX has it

    def forward(self, latents: Tensor) -> Tensor:
        hidden = self.post_quant_conv(latents * self.std + self.mean)
        video: Tensor = self.decoder(hidden, first_chunk=True)
        if self.patch is not None:
            video = unpatchify(video, patch_size=self.patch)  # type: ignore[no-untyped-call]
        return video.clamp(-1.0, 1.0)


def _whole(upsample: Module) -> Module:
    return WholeUpsample(upsample) if upsample.mode == "upsample3d" else upsample


def _load_decoder(model_dir: Path) -> nn.Module:
    return WanDecoder(load_model(AutoencoderKLWan, model_dir, "vae"))


def _forward(transformer: Module, inputs: Mapping[str, Tensor], *, by_token: bool) -> tuple[Tensor, ...]:
    timestep = inputs["timestep"]
    return (
        transformer(
            hidden_states=inputs["hidden_states"],
            encoder_hidden_states=inputs["encoder_hidden_states"],
            timestep=timestep if by_token else timestep.flatten(),
            return_dict=False,
        )[0],
    )


def _sizes(ratio: int) -> Callable[[int, int, int], dict[str, int]]:
    def sizes(width: int, height: int, num_frames: int) -> dict[str, int]:
        frames = 1 + -(-(num_frames - 1) // 4)
        return {"latent_frames": frames, "latent_height": height // ratio, "latent_width": width // ratio}

    return sizes


def _transformer(name: str, ratio: int, *, by_token: bool) -> Network:
    """``by_token``: a timestep for each, as the 5B model has them."""
    return Network(
        subfolder=name,
        load=partial(load_model, WanTransformer3DModel, subfolder=name),
        lora=WanLoraLoaderMixin.lora_state_dict,
        forward=partial(_forward, by_token=by_token),
        inputs=(
            TensorSpec("hidden_states", "float32", (FromConfig("in_channels"), *LATENT)),
            TensorSpec("encoder_hidden_states", "float32", ("tokens", FromConfig("text_dim"))),
            TensorSpec("timestep", "float32", (Product(LATENT, PATCH) if by_token else 1,), keep=True),
        ),
        outputs=(TensorSpec("sample", "float32", (FromConfig("out_channels"), *LATENT)),),
        sizes=_sizes(ratio),
        texts=MappingProxyType({"tokens": TOKENS}),
    )


def _margin(config: Mapping[str, Any]) -> Margin:
    """Every convolution in time sees two frames back; attention stays within a frame."""
    config = with_defaults(AutoencoderKLWan, config)
    counts = [1 + 4]  # on the way in, and two residual blocks in the middle
    for doubles in (*reversed(config["temperal_downsample"]), False):
        counts[-1] += 2 * (config["num_res_blocks"] + 1)
        if doubles:
            counts[-1] += 1
            counts.append(0)
    counts[-1] += 1
    return margin_of(counts, before=2, after=0)


def _decoder(ratio: int) -> Network:
    pixels = (Linear("latent_frames", 4, -3), Linear("latent_height", ratio), Linear("latent_width", ratio))
    return Network(
        subfolder="vae",
        load=_load_decoder,
        forward=lambda decoder, inputs: (decoder(inputs["latents"]),),
        inputs=(TensorSpec("latents", "float32", (FromConfig("z_dim"), *LATENT)),),
        outputs=(TensorSpec("video", "float32", (3, *pixels)),),
        sizes=_sizes(ratio),
        keeps_float32=True,
        margin=_margin,
    )


WAN = {
    "transformer": _transformer("transformer", 8, by_token=False),
    "transformer_2": _transformer("transformer_2", 8, by_token=False),
    "vae_decoder": _decoder(8),
}
WAN_5B = {"transformer": _transformer("transformer", 16, by_token=True), "vae_decoder": _decoder(16)}
