"""Threads that end with their work."""

from __future__ import annotations

import threading

import pytest

from libs.serving import in_passing_thread


async def test_the_thread_ends_with_the_work() -> None:
    thread = await in_passing_thread(threading.current_thread)
    assert thread is not threading.current_thread()
    thread.join(5.0)
    assert not thread.is_alive()


async def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="four"):
        await in_passing_thread(int, "four")
