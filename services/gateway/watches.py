"""All watchers of this process: one poll for them together, and each event read and prepared once, whoever watches.

A video that is watched has a feed: the number of its newest event, and its last events as watchers see them. Watchers
of one video share them; one that comes from far back reads what it missed by itself and then joins.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from libs.errors import NotFound, ResourceExhausted, SoundstageError
from services.gateway import metrics
from services.gateway.records import Event, Records
from services.gateway.states import TERMINAL
from services.gateway.video import Video, VideoKey

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""How soon a watcher sees what another process wrote."""
KEPT_EVENTS = 64
EVENTS_AT_ONCE = 100
REPEAT_SECONDS = 1.0
"""Watchers that hear nothing new in the same second hear the same."""


V = TypeVar("V")
Show = Callable[[Video, Event], Awaitable[V]]


@dataclass(frozen=True)
class Shown(Generic[V]):
    """An event as watchers see it. `last`: nothing comes after it."""

    sequence: int
    last: bool
    seen: V


class Watches(Generic[V]):
    """`show` prepares an event for watchers, `repeat` what is said when all is quiet.

    `most`: watchers that a tenant may have here at once. Each holds one of the server's calls for minutes, so that one
    tenant's watchers could else keep everybody out.
    """

    def __init__(
        self,
        records: Records,
        show: Show[V],
        repeat: Callable[[Video], Awaitable[V]],
        silence_seconds: float,
        most: float = math.inf,
    ) -> None:
        self._records, self._show, self._repeat, self._silence_seconds = records, show, repeat, silence_seconds
        self._most, self._watchers = most, Counter[str]()
        self._feeds: dict[str, _Feed[V]] = {}
        self._polling: asyncio.Task[None] | None = None
        records.listen(self._tell)

    async def watch(self, key: VideoKey, after_sequence: int) -> AsyncGenerator[V, None]:
        """Events with a higher number, as they come, until the last one. Repeats itself when all is quiet.

        Raises NotFound, also when the video is deleted meanwhile; ResourceExhausted, reason TOO_MANY_WATCHES.
        """
        with self._counted(key.tenant), metrics.WATCHERS.track_inprogress():
            # First: a feed that somebody else's call has made would find none of the events for the video's own tenant.
            video = await self._records.get(key)
            with self._feed(key) as feed:
                feed.tell(video.sequence)
                seen, over = after_sequence, video.status.state in TERMINAL and video.sequence <= after_sequence
                while not over:
                    shown = await feed.after(seen)
                    for event in shown:
                        yield event.seen
                        seen, over = event.sequence, event.last
                    if not shown and not await feed.wait(seen, self._silence_seconds):
                        yield await feed.repeat()

    @contextmanager
    def _counted(self, tenant: str) -> Iterator[None]:
        if self._watchers[tenant] >= self._most:
            raise ResourceExhausted(
                f"{self._watchers[tenant]} videos are watched and {self._most:g} may be at once: end a WatchVideo, or "
                "ask with GetVideo or ListVideos now and then",
                reason="TOO_MANY_WATCHES",
                subject=f"tenant:{tenant}",
                max_watches=f"{self._most:g}",
            )
        self._watchers[tenant] += 1
        try:
            yield
        finally:
            self._watchers[tenant] -= 1
            if not self._watchers[tenant]:
                del self._watchers[tenant]

    @contextmanager
    def _feed(self, key: VideoKey) -> Iterator[_Feed[V]]:
        feed = self._feeds.setdefault(key.video_id, _Feed(key, self._records, self._show, self._repeat))
        feed.watchers += 1
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())
        try:
            yield feed
        finally:
            feed.watchers -= 1
            if not feed.watchers:
                del self._feeds[key.video_id]
            if not self._feeds and self._polling is not None:
                self._polling.cancel()
                self._polling = None

    def _tell(self, video_id: str, sequence: int | None) -> None:
        if feed := self._feeds.get(video_id):
            feed.tell(sequence)

    async def _poll(self) -> None:
        """One query for all that is watched. While the database is away, nobody hears anything new.

        Nothing ends it but its cancellation: everybody who watches would wait for ever, and nobody would say why.
        """
        while True:
            await asyncio.sleep(POLL_SECONDS)
            watched = list(self._feeds)
            try:
                found = await self._records.sequences(watched)
            except SoundstageError:
                continue
            except Exception:
                logger.exception("changes of what is watched could not be read")
                continue
            for video_id in watched:
                self._tell(video_id, found.get(video_id))


class _Feed(Generic[V]):
    def __init__(self, key: VideoKey, records: Records, show: Show[V], repeat: Callable[[Video], Awaitable[V]]) -> None:
        self._key, self._records, self._show, self._repeat = key, records, show, repeat
        self.watchers = 0
        self._newest: int | None = 0
        self._changed = asyncio.Event()
        self._recent: deque[Shown[V]] = deque(maxlen=KEPT_EVENTS)
        self._reading = asyncio.Lock()
        self._repeated: tuple[datetime, V] | None = None

    def tell(self, sequence: int | None) -> None:
        """Polls and changes of this process may overtake each other: numbers only grow. None: it was deleted."""
        if self._newest is None or (sequence is not None and sequence <= self._newest):
            return
        self._newest, self._repeated = sequence, None
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seen: int, seconds: float) -> bool:
        """Returns when there is something after `seen`; False after `seconds` without."""
        changed = self._changed
        if self._newest is None or self._newest > seen:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await changed.wait()
        return False

    async def after(self, seen: int) -> list[Shown[V]]:
        """Those after `seen`, oldest first; not always all of them, but none only if there is none."""
        if self._newest is None:
            await self._records.get(self._key)  # raises NotFound
            raise NotFound("the video was deleted", reason="VIDEO_NOT_FOUND", video_id=self._key.video_id)
        if self._newest <= seen:
            return []
        if not self._recent or self._recent[0].sequence <= seen + 1:
            async with self._reading:
                await self._catch_up(seen)
        if self._recent and self._recent[0].sequence <= seen + 1:
            return [event for event in self._recent if event.sequence > seen]
        return await self._read(seen)

    async def repeat(self) -> V:
        async with self._reading:
            now = datetime.now(UTC)
            if self._repeated is None or (now - self._repeated[0]).total_seconds() > REPEAT_SECONDS:
                self._repeated = now, await self._repeat(await self._records.get(self._key))
            return self._repeated[1]

    async def _catch_up(self, seen: int) -> None:
        """Whoever comes first reads for all. The first of all begins where it is."""
        last = self._recent[-1].sequence if self._recent else seen
        if self._newest is not None and last < self._newest:
            self._recent.extend(await self._read(last))
            self.tell(self._recent[-1].sequence if self._recent else last)

    async def _read(self, after: int) -> list[Shown[V]]:
        """The video is read last: it is at least as new as what is shown of it."""
        events = await self._records.events(self._key, after, EVENTS_AT_ONCE)
        video = await self._records.get(self._key)
        return [
            Shown(event.sequence, event.status.state in TERMINAL, await self._show(video, event)) for event in events
        ]
