"""A worker of Temporal that does not end is left after a while, and one that ends is waited for."""

from __future__ import annotations

import asyncio

from services.gateway.wiring import worker_stopped


class Worker:
    """``ends``: whether it does once it is told to."""

    def __init__(self, *, ends: bool) -> None:
        self._told, self._ended, self._ends = asyncio.Event(), asyncio.Event(), ends

    async def run(self) -> None:
        await self._told.wait()
        if not self._ends:
            await asyncio.Event().wait()
        self._ended.set()

    async def shutdown(self) -> None:
        self._told.set()
        await self._ended.wait()


async def test_one_that_ends_is_waited_for() -> None:
    worker = Worker(ends=True)
    running = asyncio.create_task(worker.run())
    await worker_stopped(worker, running)
    assert running.done()
    assert not running.cancelled()


async def test_one_that_does_not_end_is_left() -> None:
    worker = Worker(ends=False)
    running = asyncio.create_task(worker.run())
    await worker_stopped(worker, running, seconds=0.1)
    assert running.cancelled()


async def test_what_ended_it_before_is_no_error_of_stopping() -> None:
    async def fail() -> None:
        raise RuntimeError("no namespace")

    running = asyncio.create_task(fail())
    await worker_stopped(Worker(ends=False), running, seconds=0.1)
    assert isinstance(running.exception(), RuntimeError)
