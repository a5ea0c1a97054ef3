"""What a row of the table of networks is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from libs.families.lora import ConvertLora
from libs.families.modular import Module
from libs.families.windows import Margin

__all__ = ["Dim", "FromConfig", "Linear", "Network", "Product", "TensorSpec"]


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


@dataclass(frozen=True)
class Product:
    """A dimension that follows from several: their product, divided by ``over``."""

    names: tuple[str, ...]
    over: int = 1


Dim: TypeAlias = int | FromConfig | str | Linear | Product
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
    """Model folder -> on the CPU, frozen."""
    forward: Callable[[Module, Mapping[str, Tensor]], tuple[Tensor, ...]]
    """(network, inputs by name) -> outputs in the order of ``outputs``."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sizes: Callable[[int, int, int], dict[str, int]]
    """(width, height, number of frames to show) -> the dimensions that follow from them."""
    lora: ConvertLora | None = None
    """Of a transformer: names of a LoRA's tensors, whoever wrote it, to those of the family's transformers; diffusers'
    own conversion, where it has one."""
    keeps_float32: bool = False
    """Works in float32 whatever type is asked for: its parts do not take another."""
    margin: Callable[[Mapping[str, Any]], Margin | None] = lambda _: (0, 0)
    """Of a decoder, by its config. None: every frame depends on all latents."""
    adapt: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]] = lambda given, _: given
    """(what the denoise loop passes to the transformer, config) -> inputs by name, and what else there was."""
    tracing: Callable[[], AbstractContextManager[object]] = nullcontext
    """Around an export: replaces what a trace would fix or cannot follow. The outputs are the same but for rounding."""
    texts: Mapping[str, tuple[int, int, int]] = field(default_factory=lambda: MappingProxyType({}))
    """Dimensions that do not: (least, usual, most)."""
