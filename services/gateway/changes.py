"""Wakes watchers when this process changed their video. What other processes change is found by polling."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Changes:
    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def tell(self, video_id: str) -> None:
        for event in self._waiting.get(video_id, ()):
            event.set()

    @contextmanager
    def follow(self, video_id: str) -> Iterator[Follower]:
        """Subscribe before reading the state, or what changes in between is only found by the next poll."""
        event = asyncio.Event()
        self._waiting[video_id].add(event)
        try:
            yield Follower(event)
        finally:
            self._waiting[video_id].discard(event)
            if not self._waiting[video_id]:
                del self._waiting[video_id]


class Follower:
    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    async def wait(self, seconds: float) -> None:
        """Returns after a change, or after `seconds` without one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()
