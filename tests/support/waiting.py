"""Waiting for what another thread, task or process brings about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["SECONDS", "until", "wait_until"]

SECONDS = 60.0
"""Only what never comes takes as long: a busy machine must not fail a test."""
_PAUSE_SECONDS = 0.01


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(_PAUSE_SECONDS)


def wait_until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(_PAUSE_SECONDS)
