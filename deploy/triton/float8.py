"""Linear layers in float8 (E4M3): which ones, and their pairs of QuantizeLinear and DequantizeLinear in an ONNX.

Weights and what comes into a layer have one scale each. Scales are powers of two: exact in every type, and what comes
in may be up to twice as large as what was seen before it is cut off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from libs.families.modular import Module

__all__ = ["Float8Linear", "chosen_layers", "quantised"]

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""Of the finite numbers of E4M3."""
CHOSEN = re.compile(r"(transformer_)?blocks\.\d+\.(?!norm)")
"""Of the blocks: attention and feed-forward. Left as they are: a block's modulation (HunyuanVideo has layers for it, in
its norms), and all that stands before and after the blocks: projections of latents, embeddings of time and captions.
They are few, or work on few tokens, and their errors reach every block."""


def chosen_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """By name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear) and CHOSEN.match(name)}


def quantised(module: nn.Module, ranges: Mapping[str, float]) -> nn.Module:
    """``module`` itself, with the layers of ``ranges`` (largest absolute value that came in) in float8.

    Its weights must still be those of the model: what was rounded to bfloat16 before would be rounded twice.
    """
    for name, largest in ranges.items():
        module.set_submodule(name, Float8Linear(module.get_submodule(name), largest))
    return module


class Float8Linear(nn.Module):
    """Rounds as an engine does; `cast` gives its scales and bias the type that the rest works in."""

    input_scale: Tensor
    weight_scale: Tensor
    weight: Tensor
    zero: Tensor

    def __init__(self, linear: Module, largest_input: float) -> None:
        super().__init__()
        weight: Tensor = linear.weight.float()
        self.bias: nn.Parameter | None = linear.bias
        self.register_buffer("input_scale", _scale(torch.tensor(largest_input)))
        self.register_buffer("weight_scale", _scale(weight.abs().max()))
        self.register_buffer("weight", _to_float8(weight, self.weight_scale))
        self.register_buffer("zero", torch.zeros((), dtype=E4M3))

    def forward(self, states: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        states = _Rounded.apply(states, self.input_scale, self.zero)  # type: ignore[no-untyped-call]
        weight = _Widened.apply(self.weight, self.weight_scale)  # type: ignore[no-untyped-call]
        return nn.functional.linear(states, weight, self.bias)


class _Rounded(torch.autograd.Function):
    """To float8 and back."""

    @staticmethod
    def forward(_context: Any, states: Tensor, scale: Tensor, _zero: Tensor) -> Tensor:  # noqa: ANN401
        return _to_float8(states, scale).to(states.dtype) * scale

    @staticmethod
    def symbolic(graph: Module, states: Module, scale: Module, zero: Module) -> Module:
        # The exporter leaves out casts that it takes for none: what is bfloat16 in torch may be float32 in the graph.
        states = graph.op("CastLike", states, scale)
        return graph.op("DequantizeLinear", graph.op("QuantizeLinear", states, scale, zero), scale, zero)


class _Widened(torch.autograd.Function):
    """From float8: an ONNX, and an engine, holds one byte a weight."""

    @staticmethod
    def forward(_context: Any, weight: Tensor, scale: Tensor) -> Tensor:  # noqa: ANN401
        return weight.to(scale.dtype) * scale

    @staticmethod
    def symbolic(graph: Module, weight: Module, scale: Module) -> Module:
        return graph.op("DequantizeLinear", weight, scale)


def _to_float8(values: Tensor, scale: Tensor) -> Tensor:
    """Beyond the largest number torch gives NaN; ONNX and TensorRT the largest number, as here."""
    return (values / scale).clamp(-LARGEST, LARGEST).to(E4M3)


def _scale(largest: Tensor) -> Tensor:
    """The least power of two by which ``largest`` fits. float16 has none below 2^-24."""
    return torch.exp2(torch.ceil(torch.log2(largest / LARGEST)).clamp(min=-24.0))
