"""LoRAs for tiny models, as files: random factors for layers of their transformers, and the same fused by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

__all__ = ["RANK", "factors", "fuse_by_hand", "lora_file"]

RANK = 2


def factors(transformer: nn.Module, *layers: str, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer -> (down, up), of the shapes that its weight asks for."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for layer in layers:
        out, *rest = transformer.get_submodule(layer).weight.shape
        down = torch.randn((RANK, *rest), generator=generator)
        made[layer] = (down, torch.randn((out, RANK, *[1] * (len(rest) - 1)), generator=generator) * 0.3)
    return made


def lora_file(
    of: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]], settings: Mapping[str, Any] | str | None = None
) -> bytes:
    """By transformer. ``settings``: what diffusers writes into the header of what `peft` trained; a string as it is."""
    tensors: dict[str, Tensor] = {}
    for transformer, layers in of.items():
        for layer, (down, up) in layers.items():
            tensors[f"{transformer}.{layer}.lora_A.weight"] = down.clone()
            tensors[f"{transformer}.{layer}.lora_B.weight"] = up.clone()
    text = settings if isinstance(settings, str) or settings is None else json.dumps(settings)
    return save(tensors, None if text is None else {"lora_adapter_metadata": text})


@torch.no_grad()
def fuse_by_hand(transformer: nn.Module, layers: Mapping[str, tuple[Tensor, Tensor]], scale: float) -> nn.Module:
    """The very transformer, with its weights replaced."""
    for layer, (down, up) in layers.items():
        module = transformer.get_submodule(layer)
        change = torch.matmul(up.reshape(len(up), -1), down.reshape(len(down), -1)).reshape(module.weight.shape)
        module.weight = nn.Parameter(module.weight + change * scale, requires_grad=False)
    return transformer
