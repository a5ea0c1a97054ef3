"""How a call to a network elsewhere says which LoRA it means: an input with its name, and one with its file if asked.

Inputs, not parameters of the request: Triton refuses an input that a model has not declared, while a backend that knows
nothing of a parameter would answer as if there were no LoRA.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["FILE", "LORA", "ROW_BYTES", "LoraName", "NamedLora", "file_inputs", "file_of", "name_inputs", "name_of"]

LORA, FILE = "lora", "lora_file"
"""uint8, both. The file is laid over the rows, with zeros behind its end: all inputs of a call have as many rows."""
_NAME = struct.Struct("<32sdQ")
ROW_BYTES: Mapping[str, int | None] = {LORA: _NAME.size, FILE: None}
"""Input -> bytes in a row; None: any number."""


@dataclass(frozen=True)
class LoraName:
    """Equal for equal weights of one network. ``sha256`` and ``size_bytes`` of the file; ``scale`` 0 to 2."""

    sha256: str
    scale: float
    size_bytes: int


@dataclass(frozen=True)
class NamedLora:
    """``read`` gives the file; it is called, in any thread, whenever somebody has to be told it."""

    name: LoraName
    read: Callable[[], bytes]


def name_inputs(lora: NamedLora, rows: int) -> dict[str, NDArray[np.uint8]]:
    """With each call."""
    packed = _NAME.pack(bytes.fromhex(lora.name.sha256), lora.name.scale, lora.name.size_bytes)
    return {LORA: np.tile(np.frombuffer(packed, np.uint8), (rows, 1))}


def file_inputs(lora: NamedLora, rows: int) -> dict[str, NDArray[np.uint8]]:
    """Further ones, where the file is not known. Raises what ``lora.read`` does."""
    data = lora.read()
    in_a_row = max(1, -(-len(data) // rows))
    return {FILE: np.frombuffer(data.ljust(rows * in_a_row, b"\0"), np.uint8).reshape(rows, in_a_row)}


def name_of(inputs: Mapping[str, Tensor]) -> LoraName | None:
    if LORA not in inputs:
        return None
    sha256, scale, size_bytes = _NAME.unpack(bytes(inputs[LORA][0].tolist()))
    return LoraName(sha256.hex(), scale, size_bytes)


def file_of(inputs: Mapping[str, Tensor], name: LoraName) -> bytes | None:
    return inputs[FILE].cpu().numpy().tobytes()[: name.size_bytes] if FILE in inputs else None
