"""The networks of a family as other processes run them: by name, with named tensors. One literal table.

Triton's `python` backend loads them with torch, its `tensorrt` backend is exported from them, and `remote` stands for
them in the denoise loop; all three read this table. To add a family's: a row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import chain
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import SanaLoraLoaderMixin
from torch import Tensor, nn

from libs.errors import FailedPrecondition
from libs.families.diorama import components as diorama
from libs.families.hunyuan_networks import HUNYUAN
from libs.families.lora import Layer, by_transformer, read_lora
from libs.families.ltx2_networks import LTX2
from libs.families.ltx_networks import LTX
from libs.families.modular import Module
from libs.families.network import Dim, FromConfig, Linear, Network, Product, TensorSpec
from libs.families.wan_networks import WAN, WAN_5B
from libs.families.windows import Margin

__all__ = [
    "NETWORKS",
    "Dim",
    "FromConfig",
    "Linear",
    "Network",
    "Product",
    "TensorSpec",
    "bind",
    "cast",
    "lora_layers",
    "network_named",
    "rounded",
    "shape_of",
    "zeros",
]


class _Decoder(nn.Module):
    """`decode` of an autoencoder, clamped to [-1, 1], as a network of its own."""

    def __init__(self, vae: Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        video: Tensor = self.vae.decode(latents)
        return video.clamp(-1.0, 1.0)


def _diorama_transformer(transformer: Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return (
        transformer(
            hidden_states=inputs["hidden_states"],
            encoder_hidden_states=inputs["encoder_hidden_states"],
            encoder_attention_mask=inputs["encoder_attention_mask"],
            timestep=inputs["timestep"].flatten(),
            return_dict=False,
        )[0],
    )


def _diorama_margin(config: Mapping[str, Any]) -> Margin:
    """A latent frame for each convolution in time of the trunk, and one for the detail blocks, which see frames."""
    beside = 2 + int(config["depth"])
    return beside, beside


def _diorama_sizes(width: int, height: int, num_frames: int) -> dict[str, int]:
    frames = 1 + (diorama.frames_made(num_frames) - 1) // 4
    return {"latent_frames": frames, "latent_height": height // 16, "latent_width": width // 16}


_LATENT = ("latent_frames", "latent_height", "latent_width")


def _diorama_expert(name: str) -> Network:
    return Network(
        subfolder=name,
        load=partial(diorama.load_transformer, name=name),
        lora=SanaLoraLoaderMixin.lora_state_dict,
        forward=_diorama_transformer,
        inputs=(
            TensorSpec("hidden_states", "float32", (FromConfig("in_channels"), *_LATENT)),
            TensorSpec("encoder_hidden_states", "float32", ("tokens", FromConfig("caption_channels"))),
            TensorSpec("encoder_attention_mask", "int64", ("tokens",)),
            TensorSpec("timestep", "float32", (1,), keep=True),
        ),
        outputs=(TensorSpec("sample", "float32", (FromConfig("out_channels"), *_LATENT)),),
        sizes=_diorama_sizes,
        texts=MappingProxyType({"tokens": (1, 16, 128)}),
    )


NETWORKS: dict[str, dict[str, Network]] = {
    "diorama": {
        "transformer": _diorama_expert("transformer"),
        "transformer_2": _diorama_expert("transformer_2"),
        "vae_decoder": Network(
            subfolder="vae",
            load=lambda model_dir: _Decoder(diorama.load_for_decode(model_dir)["vae"]),
            forward=lambda decoder, inputs: (decoder(inputs["latents"]),),
            inputs=(TensorSpec("latents", "float32", (FromConfig("latent_channels"), *_LATENT)),),
            outputs=(
                TensorSpec(
                    "video",
                    "float32",
                    (3, Linear("latent_frames", 4, -3), Linear("latent_height", 16), Linear("latent_width", 16)),
                ),
            ),
            sizes=_diorama_sizes,
            keeps_float32=True,
            margin=_diorama_margin,
        ),
    },
    "wan22": WAN,
    "wan22-5b": WAN_5B,
    "ltx": LTX,
    "ltx2": LTX2,
    "hunyuan15": HUNYUAN,
}


def lora_layers(family: str, data: bytes) -> dict[str, dict[str, Layer]]:
    """What the LoRA in the safetensors file ``data`` changes: layers, by their names, of transformers, by theirs.

    Raises FailedPrecondition LORA_UNUSABLE or LORA_UNFITTING.
    """
    convert = network_named(family, "transformer").lora
    assert convert is not None
    layers = read_lora(data, convert)
    return by_transformer(layers, [name for name, network in NETWORKS[family].items() if network.lora is not None])


def network_named(family: str, name: str) -> Network:
    """Raises FailedPrecondition NETWORK_UNKNOWN, with what there is."""
    try:
        return NETWORKS[family][name]
    except KeyError:
        known = ", ".join(f"{key} {network}" for key, networks in NETWORKS.items() for network in networks)
        raise FailedPrecondition(
            f"no network {name!r} of family {family!r} can run apart from its pipeline; there are: {known}",
            reason="NETWORK_UNKNOWN",
            family=family,
            network=name,
        ) from None


def bind(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The dimensions that vary, by name, read off the shapes of the inputs (rows included)."""
    return {
        dim: size
        for spec in network.inputs
        for dim, size in zip(spec.dims, shapes[spec.name][1:], strict=True)
        if isinstance(dim, str)
    }


def shape_of(spec: TensorSpec, names: Mapping[str, int], config: Mapping[str, Any]) -> tuple[int, ...]:
    """Without the rows. ``names``: the dimensions that vary; ``config``: the network's config.json."""
    return tuple(_resolved(dim, names, config) for dim in spec.dims)


def _resolved(dim: Dim, names: Mapping[str, int], config: Mapping[str, Any]) -> int:
    match dim:
        case Linear(name, times, plus):
            return times * names[name] + plus
        case Product(factors, over):
            return prod(names[name] for name in factors) // over
        case FromConfig(name):
            return int(config[name])
        case str():
            return names[dim]
        case int():
            return dim


def zeros(network: Network, config: Mapping[str, Any], names: Mapping[str, int], rows: int) -> dict[str, Tensor]:
    """Inputs of these sizes, for calls of which only that they are made, or how long they take, is of interest."""
    return {
        spec.name: torch.zeros((rows, *shape_of(spec, names, config)), dtype=getattr(torch, spec.dtype))
        for spec in network.inputs
    }


def rounded(tensor: Tensor, spec: TensorSpec, dtype: torch.dtype) -> Tensor:
    """To the type the network works in, where that is allowed."""
    return tensor if spec.keep or not tensor.is_floating_point() else tensor.to(dtype)


def cast(module: Module, dtype: torch.dtype) -> Module:
    """To ``dtype``, in place; not float8, nor what diffusers itself keeps in float32 (timestep embeddings, norms)."""
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if tensor.is_floating_point() and tensor.element_size() > 1:
            tensor.data = tensor.data.to(torch.float32 if kept & set(name.split(".")) else dtype)
    return module
