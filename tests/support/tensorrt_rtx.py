"""TensorRT-RTX, whose builder parses and compiles without a GPU; what it makes cannot run here."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from deploy.triton.wheel import CACHE, Wheel, unpacked

__all__ = ["load_tensorrt_rtx"]

VERSION = "1.7.1.116"
LIBRARIES = Wheel("tensorrt-rtx-cu13-libs", VERSION, "e3fd45fed001240d63304e77a2d4006319b839994237cb294b6e7ad72acaabcd")
BINDINGS = Wheel(
    "tensorrt-rtx-cu13-bindings", VERSION, "6a4d2bf39a98b71238046b9a9dd22d0e6b146be90cd56ac09f1e068933e4e18d"
)


def load_tensorrt_rtx() -> Any:
    """The module, with the functions of `tensorrt`; 95 MB are fetched once, by hash, into the cache of this folder."""
    for wheel in (LIBRARIES, BINDINGS):
        folder = unpacked(wheel, CACHE / f"{wheel.package}-{VERSION}")
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return importlib.import_module("tensorrt_rtx_bindings")
