"""The networks of a family as other processes run them: by name, with named tensors. One literal table.

Triton's `python` backend loads them with torch, its `tensorrt` backend is exported from them, and `remote` stands for
them in the denoise loop; all three read this table. To add a family's: a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from libs.errors import FailedPrecondition
from libs.families.diorama import components as diorama
from libs.families.modular import Module

__all__ = [
    "NETWORKS",
    "Dim",
    "FromConfig",
    "Linear",
    "Network",
    "TensorSpec",
    "bind",
    "network_named",
    "rounded",
    "shape_of",
]


@dataclass(frozen=True)
class Linear:
    """A dimension that follows from another: ``times`` x ``name`` + ``plus``."""

    name: str
    times: int
    plus: int = 0


@dataclass(frozen=True)
class FromConfig:
    """A number of the network's config.json."""

    name: str


Dim: TypeAlias = int | FromConfig | str | Linear
"""A number; or the name of one that differs from call to call."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor, its first dimension (rows of the batch) apart. What is one number a row has ``dims`` (1,)."""

    name: str
    dtype: Literal["float32", "int64"]
    """On the wire. The network may work in another type."""
    dims: tuple[Dim, ...]
    keep: bool = False
    """Not rounded to the type the network works in: a timestep of 999 is none in bfloat16."""


@dataclass(frozen=True)
class Network:
    subfolder: str
    """Of the model folder; it holds the config.json that ``dims`` take numbers from."""
    load: Callable[[Path], nn.Module]
    """Model folder -> float32 on the CPU, frozen."""
    forward: Callable[[Module, Mapping[str, Tensor]], tuple[Tensor, ...]]
    """(network, inputs by name) -> outputs in the order of ``outputs``."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sizes: Callable[[int, int, int], dict[str, int]]
    """(width, height, number of frames to show) -> the dimensions that follow from them."""
    keeps_float32: bool = False
    """Works in float32 whatever type is asked for: its parts do not take another."""
    margin: Callable[[Mapping[str, Any]], int] = lambda _: 0
    """Of a decoder, by its config: latent frames on either side of a window whose picture depends on them."""
    texts: Mapping[str, tuple[int, int, int]] = field(default_factory=lambda: MappingProxyType({}))
    """Dimensions that do not: (least, usual, most)."""


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


def _diorama_margin(config: Mapping[str, Any]) -> int:
    """A latent frame for each convolution in time of the trunk, and one for the detail blocks, which see frames."""
    return 2 + int(config["depth"])


def _diorama_sizes(width: int, height: int, num_frames: int) -> dict[str, int]:
    frames = 1 + (diorama.frames_made(num_frames) - 1) // 4
    return {"latent_frames": frames, "latent_height": height // 16, "latent_width": width // 16}


_LATENT = ("latent_frames", "latent_height", "latent_width")


def _diorama_expert(name: str) -> Network:
    return Network(
        subfolder=name,
        load=partial(diorama.load_transformer, name=name),
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
}


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
        case FromConfig(name):
            return int(config[name])
        case str():
            return names[dim]
        case int():
            return dim


def rounded(tensor: Tensor, spec: TensorSpec, dtype: torch.dtype) -> Tensor:
    """To the type the network works in, where that is allowed."""
    return tensor if spec.keep or not tensor.is_floating_point() else tensor.to(dtype)
