"""LoRAs: low-rank changes of a transformer's weights, read from safetensors and fused into a twin of the transformer.

A layer's weight W becomes W + scale x (alpha / rank) x up @ down (Hu et al. 2021, "LoRA", section 4.1). diffusers does
that with the package `peft` only, and only to the transformer itself, which other videos use at the same time; its
conversions of names need neither, and are used.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from libs.errors import FailedPrecondition

__all__ = ["ConvertLora", "Layer", "by_transformer", "fused", "read_lora"]

ConvertLora = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Tensors by the names of any tool -> by ``<transformer>.<layer>.lora_A.weight`` and so on. May raise anything."""

_NAME = re.compile(r"(?P<layer>.+?)\.(?P<part>lora_(?:A|B|down|up)(?:\.default)?\.(?:weight|bias)|alpha)")
_PARTS = {"lora_A.weight": "down", "lora_down.weight": "down", "lora_B.weight": "up", "lora_up.weight": "up"}
_PARTS |= {"lora_B.bias": "bias", "lora_up.bias": "bias", "alpha": "alpha"}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LITERAL = re.compile(r"\^?[\w.]+")
"""Of peft's patterns, which are regular expressions, those that are names: others could take for ever to match."""


@dataclass(frozen=True)
class Layer:
    """What one layer's weight is changed by: ``scale`` x ``up`` (out, rank, 1 …) @ ``down`` (rank, in, …)."""

    down: Tensor
    up: Tensor
    bias: Tensor | None
    """(out,), added to the layer's, scaled as well."""
    scale: float
    """alpha / rank; of rank-stabilised ones alpha / sqrt(rank)."""


def read_lora(data: bytes, convert: ConvertLora) -> dict[str, Layer]:
    """Layers by name, the transformer's name in front: ``transformer.blocks.0.attn1.to_q``.

    Raises FailedPrecondition LORA_UNUSABLE when ``data`` is no safetensors file, or holds something else than a LoRA.
    """
    tensors, settings = _load(data)
    other = [name for name in tensors if any(sign in name for sign in ("dora_scale", "magnitude_vector", "lokr_"))]
    if other or any(value for name, value in settings.items() if name.endswith(".use_dora")):
        raise _unusable(f"it is a DoRA or LoKr{f' ({other[0]})' if other else ''}, which is not a plain LoRA")
    try:
        converted = convert(tensors)
    except Exception as error:  # names that diffusers' conversions do not expect end them in many ways
        raise _unusable(f"its names are of no LoRA for this family ({error!s:.200})") from error
    parts: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in converted.items():
        layer, part = _split(name)
        if (part != "alpha" and tensor.dtype not in _DTYPES) or not tensor.float().isfinite().all():
            raise _unusable(f"{name} is {tensor.dtype}, or has values that are not finite")
        parts[layer][part] = tensor
    if not parts:
        raise _unusable("it holds no layers")
    return {name: _layer(name, found, settings) for name, found in parts.items()}


def by_transformer(layers: Mapping[str, Layer], transformers: Collection[str]) -> dict[str, dict[str, Layer]]:
    """Those of ``transformers`` that ``layers`` change, each with its layers by their names in it.

    Raises FailedPrecondition LORA_UNFITTING for a layer of anything else.
    """
    sorted_: dict[str, dict[str, Layer]] = {}
    for name, layer in layers.items():
        transformer, _, path = name.partition(".")
        if transformer not in transformers:
            raise _unfitting(name, f"begins with none of {', '.join(f'{known}.' for known in transformers)}")
        sorted_.setdefault(transformer, {})[path] = layer
    return sorted_


@torch.no_grad()
def fused(model: nn.Module, layers: Mapping[str, Layer], scale: float) -> nn.Module:
    """A twin of ``model`` with ``layers``, by their names in it, added to its weights; the others are the same memory.

    ``model`` stays as it is. Raises FailedPrecondition LORA_UNFITTING for a layer that it has not, or of another shape.
    """
    tensors = chain(model.parameters(), model.buffers())
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    modules = dict(twin.named_modules())
    for name, layer in layers.items():
        module = modules.get(name)
        if not isinstance(module, _LAYERS) or getattr(module, "groups", 1) != 1:
            raise _unfitting(name, "is no layer of the model that a LoRA can change")
        module.weight = _frozen(name, module.weight, _change(name, layer, module.weight), scale * layer.scale)
        if layer.bias is not None:
            if module.bias is None or module.bias.shape != layer.bias.shape:
                raise _unfitting(name, "has another bias in the model, or none")
            bias = layer.bias.to(module.bias.device).float()
            module.bias = _frozen(name, module.bias, bias, scale * layer.scale)
    return twin


def _load(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and what peft's settings in the header say, by `transformer.lora_alpha` and so on."""
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        settings = json.loads(header.get("__metadata__", {}).get("lora_adapter_metadata", "{}"))
    except (SafetensorError, ValueError, RecursionError) as error:
        what = f"it is no safetensors file ({error!s:.200}); pickled ones (.ckpt, .pt, .bin) are not read"
        raise _unusable(what) from error
    if not isinstance(settings, dict):
        raise _unusable("its lora_adapter_metadata is no JSON object")
    return tensors, settings


def _split(name: str) -> tuple[str, str]:
    match = _NAME.fullmatch(name)
    part = _PARTS.get(match["part"].replace(".default", "")) if match else None
    if match is None or part is None:
        raise _unusable(f"{name} belongs to no LoRA")
    return match["layer"], part


def _layer(name: str, parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Layer:
    if not {"down", "up"} <= parts.keys():
        raise _unusable(f"{name} has only {', '.join(sorted(parts))}; both factors are needed")
    if min(parts["down"].ndim, parts["up"].ndim) < 2 or not len(parts["down"]):
        raise _unusable(f"the factors of {name} are no matrices of a rank of 1 or more")
    rank = len(parts["down"])
    alpha = _number(parts["alpha"]) if "alpha" in parts else _alpha(name, settings, rank)
    if alpha is None or not math.isfinite(alpha):
        raise _unusable(f"alpha of {name} is no finite number")
    stabilised = bool(settings.get(f"{name.partition('.')[0]}.use_rslora", False))
    return Layer(parts["down"], parts["up"], parts.get("bias"), alpha / (rank**0.5 if stabilised else rank))


def _number(tensor: Tensor) -> float | None:
    return float(tensor) if tensor.numel() == 1 else None


def _alpha(name: str, settings: Mapping[str, Any], rank: int) -> float:
    """As peft was told when the LoRA was trained; without a word of it the rank, as diffusers takes it."""
    transformer, _, layer = name.partition(".")
    patterns = settings.get(f"{transformer}.alpha_pattern") or {}
    alpha = settings.get(f"{transformer}.lora_alpha", rank)
    try:
        for pattern, value in patterns.items():
            if not _LITERAL.fullmatch(pattern):
                raise _unusable(f"its alpha_pattern {pattern!r} is not the name of a layer")
            if f".{layer}".endswith(f".{pattern.removeprefix('^')}"):
                return float(value)
        return float(alpha)
    except (AttributeError, TypeError, ValueError) as error:
        raise _unusable("its lora_adapter_metadata gives no number for alpha") from error


def _change(name: str, layer: Layer, weight: Tensor) -> Tensor:
    """up @ down, float32, in the shape of ``weight``."""
    up, down = (factor.flatten(1).to(weight.device) for factor in (layer.up, layer.down))
    fits = (len(up), *layer.down.shape[1:]) == tuple(weight.shape) and up.shape[1] == len(down)
    if not fits:
        shapes = f"{tuple(layer.up.shape)} and {tuple(layer.down.shape)}"
        raise _unfitting(name, f"has factors {shapes}, which give no weight of {tuple(weight.shape)}")
    return (up.float() @ down.float()).view(weight.shape)


def _frozen(name: str, base: Tensor, change: Tensor, scale: float) -> nn.Parameter:
    """Added in float32, then of the type of ``base``."""
    fused = (base.float() + scale * change).to(base.dtype)
    if not fused.isfinite().all():
        raise _unfitting(name, "becomes infinite with it")
    return nn.Parameter(fused, requires_grad=False)


def _unusable(what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the LoRA cannot be used: {what}; give a safetensors file with a LoRA, or none", reason="LORA_UNUSABLE"
    )


def _unfitting(name: str, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the LoRA does not fit the model: {name} {what}; give one that was trained for this model, or none",
        reason="LORA_UNFITTING",
        layer=name,
    )
