"""Loads one part of a model folder: safetensors only, memory-mapped, in the type in which it computes fast here.

Weights are read on first use: a service with a model of 28 billion parameters holds those parts that it has used.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open
from torch import nn

from libs.errors import FailedPrecondition
from libs.families.modular import Module
from libs.families.precision import is_bfloat16_fast
from libs.families.quiet import quieten
from libs.families.shape import LOADING, Shape

__all__ = ["Lazy", "LazyModel", "index_value", "load_model", "load_scheduler", "load_tokenizer", "use_dtype"]

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


class Lazy:
    """A part that is loaded when it is first asked for, once, whichever threads ask."""

    def __init__(self, load: Callable[[], Module]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._part: Module = None

    def get(self) -> Module:
        with self._lock:
            if self._part is None:
                self._part = self._load()
            return self._part


class LazyModel(nn.Module):
    """A model of diffusers that is called like any other, and whose weights are read by the first call."""

    def __init__(self, kind: Module, model_dir: Path, subfolder: str) -> None:
        super().__init__()
        self.config = Shape(kind, model_dir, subfolder).config
        self.dtype = use_dtype(model_dir / subfolder)
        self._model = Lazy(lambda: load_model(kind, model_dir, subfolder))

    def load(self) -> Module:
        """The model itself."""
        return self._model.get()

    def forward(self, *args: Any, **inputs: Any) -> Any:  # noqa: ANN401  # as the model
        return self._model.get()(*args, **inputs)


def load_model(kind: Module, model_dir: Path, subfolder: str) -> Module:
    """``kind`` of diffusers or transformers, frozen. Raises FailedPrecondition MODEL_INCOMPLETE without its files.

    Where the type is the stored one, parameters are the mapped file itself: read page by page, and shared by processes.
    """
    quieten(diffusers_logging)
    _expect_weights(model_dir / subfolder)
    dtype = use_dtype(model_dir / subfolder)
    with LOADING:
        model = kind.from_pretrained(model_dir / subfolder, local_files_only=True, use_safetensors=True, dtype=dtype)
    return model.eval().requires_grad_(False)


def load_tokenizer(kind: Module, model_dir: Path, subfolder: str = "tokenizer") -> Module:
    from transformers.utils import logging as transformers_logging  # not there where networks run alone, on Triton

    quieten(transformers_logging)
    return kind.from_pretrained(model_dir / subfolder, local_files_only=True)


def load_scheduler(kind: Module, model_dir: Path) -> Module:
    quieten(diffusers_logging)
    return kind.from_pretrained(model_dir / "scheduler", local_files_only=True)


def index_value(model_dir: Path, name: str) -> Any:  # noqa: ANN401  # whatever the pipeline's settings hold
    """A setting of the pipeline in `model_index.json`, None when it has none."""
    return json.loads((model_dir / "model_index.json").read_text(encoding="utf-8")).get(name)


def use_dtype(folder: Path) -> torch.dtype:
    """The type the weights of ``folder`` are stored in, or float32 where this processor is slow in that one."""
    with safe_open(_expect_weights(folder)[0], "pt") as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118  # the file is no mapping
        sizes: Counter[str] = Counter()
        for one in slices:
            sizes[one.get_dtype()] += prod(one.get_shape())
    stored = _DTYPES.get(sizes.most_common(1)[0][0], torch.float32)
    return stored if stored == torch.bfloat16 and is_bfloat16_fast() else torch.float32


def _expect_weights(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FailedPrecondition(
            f"{folder} holds no safetensors file; put the model's part there, in diffusers' layout",
            reason="MODEL_INCOMPLETE",
            part=folder.name,
        )
    return files
