"""Work in a thread that ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

__all__ = ["in_passing_thread"]

P = ParamSpec("P")
R = TypeVar("R")


async def in_passing_thread(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`asyncio.to_thread`, whose threads stay, for work with torch.

    Each thread that computes with torch has OpenMP threads of its own, as long as it lives. With more of them than
    cores, waiting for each other becomes sleeping, and every step of whoever computes next takes two or three times as
    long (measured on two cores).
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="passing")
    try:
        return await asyncio.wrap_future(thread.submit(work, *args, **kwargs))
    finally:
        thread.shutdown(wait=False)
