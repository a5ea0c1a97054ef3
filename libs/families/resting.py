"""Lets go of the OpenMP threads of a thread that computes no more for a while.

Each thread that computes with torch has OpenMP threads of its own, as long as it lives. Where those of all threads
together are more than the cores, libgomp waits for each of them asleep and not awake, and on two cores a step took two
to three times as long. So a loop lets go of its own between two steps, when another may be the next; new ones take some
microseconds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

__all__ = ["rest"]

_SOFT = 1
"""`omp_pause_soft` of OpenMP 5.0, section 3.2.44."""


def rest() -> None:
    """To be called outside of parallel work. Does nothing where torch came with another OpenMP than GNU's."""
    pause = _pause()
    if pause is not None:
        pause(_SOFT)


@lru_cache(maxsize=1)
def _pause() -> Callable[[int], int] | None:
    """Of the library that torch has loaded: one opened again by its path is the same."""
    try:
        return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libgomp.so.1")).omp_pause_resource_all
    except (OSError, AttributeError):
        return None
