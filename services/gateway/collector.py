"""Deletes files that nobody needs any more, as `Retention` says, and long after them the videos' records.

- Of a video that has ended, oldest first: files, then the mark in its record. After a crash in between, deleting again
  does no harm. A video that has not ended is never touched, and ended ones never change.
- Orphans: files of videos that there is no record of (a crash between image and record, or between DeleteVideo's
  steps), or that a lost attempt wrote after the video's files were deleted. Found by walking through the whole store.

Each worker does this now and then; two at once do no harm.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import NoReturn

from libs.artifacts import Store, Stored
from libs.errors import FailedPrecondition, SoundstageError
from services.gateway import metrics
from services.gateway.collectable import Candidate, Collectable
from services.gateway.retention import Retention, Rule, Why
from services.gateway.video import Collected, VideoKey

logger = logging.getLogger(__name__)

AT_ONCE = 100
FEW_ORPHANS, ORPHAN_SHARE = 20, 0.5
"""More orphans than both, as a number and as a share of all folders in the store, look like another database's."""


@dataclass(frozen=True)
class Doomed:
    """Files of one video that go together. `becomes`: what its record says afterwards; None without a record."""

    why: Why
    key: VideoKey
    keys: tuple[str, ...]
    size_bytes: int
    becomes: Collected | None


class Collector:
    def __init__(self, collectable: Collectable, store: Store, retention: Retention) -> None:
        self._collectable, self._store, self._retention = collectable, store, retention

    async def run(self, every_seconds: float, orphans_every_seconds: float) -> NoReturn:
        """Collects until cancelled; what goes wrong once is tried again the next time.

        The first walk for orphans comes early, so that workers that are often replaced do it too.
        """
        walk_at = time.monotonic() + min(orphans_every_seconds, every_seconds * random.uniform(1.0, 5.0))
        while True:
            await asyncio.sleep(every_seconds * random.uniform(0.8, 1.2))
            try:
                await self.collect(self.expired())
                await self.forget()
                if time.monotonic() >= walk_at:
                    walk_at = time.monotonic() + orphans_every_seconds * random.uniform(0.8, 1.2)
                    await self.collect(self.orphans())
            except SoundstageError as error:
                logger.warning("collecting: %s", error)

    async def collect(self, doomed: AsyncIterator[Doomed]) -> None:
        async for files in doomed:
            await self.delete(files)

    async def delete(self, doomed: Doomed) -> None:
        if doomed.becomes is Collected.EVERYTHING:  # with what killed writers left half written, which has no key
            await asyncio.to_thread(self._store.delete_prefix, _folder(doomed.key))
        else:
            await asyncio.to_thread(self._store.delete, doomed.keys)
        if doomed.becomes is not None:
            await self._collectable.mark(doomed.key, doomed.becomes)
        metrics.COLLECTED_FILES.labels(why=doomed.why.value).inc(len(doomed.keys))
        metrics.COLLECTED_BYTES.labels(why=doomed.why.value).inc(doomed.size_bytes)
        if doomed.keys:
            where = doomed.key.video_id, doomed.key.tenant, len(doomed.keys), doomed.size_bytes, doomed.why
            logger.info("video %s of %s: %d files with %d bytes deleted: %s", *where)

    async def forgettable(self, limit: int = AT_ONCE) -> list[VideoKey]:
        """Videos whose files are gone and whose records are old enough to go, too."""
        return await self._collectable.forgettable(datetime.now(UTC) - self._retention.records, limit)

    async def forget(self) -> int:
        """Deletes those records; returns how many."""
        forgotten = 0
        while keys := await self.forgettable():
            await self._collectable.forget(keys)
            forgotten += len(keys)
            metrics.FORGOTTEN.inc(len(keys))
            logger.info("%d videos forgotten, the last one %s of %s", len(keys), keys[-1].video_id, keys[-1].tenant)
        return forgotten

    async def expired(self) -> AsyncIterator[Doomed]:
        """Files of videos whose time is over."""
        for rule in self._retention.rules(datetime.now(UTC)):
            last: Candidate | None = None
            while found := await self._collectable.due(rule, last, AT_ONCE):
                for candidate in found:
                    doomed = await asyncio.to_thread(self._doomed, rule, candidate)
                    if doomed is not None:
                        yield doomed
                last = found[-1]

    async def orphans(self, *, however_many: bool = False) -> AsyncIterator[Doomed]:
        """Files without a video, once the whole store was looked through.

        Raises FailedPrecondition, reason TOO_MANY_ORPHANS, when they are so many that something else must be wrong.
        """
        folders, found = 0, []
        groups = _by_video(self._store.walk())
        while batch := await asyncio.to_thread(lambda: list(islice(groups, AT_ONCE))):
            folders += len(batch)
            found += await self._without_video(batch)
        if not however_many and len(found) > max(FEW_ORPHANS, ORPHAN_SHARE * folders):
            raise FailedPrecondition(
                f"{len(found)} of {folders} videos in the artifact store are unknown to this database: check that "
                "database_url and artifacts_url belong together, then delete them with "
                "`python -m services.gateway.collect --however-many`",
                reason="TOO_MANY_ORPHANS",
                orphans=str(len(found)),
            )
        for orphan in found:
            yield orphan

    def _doomed(self, rule: Rule, candidate: Candidate) -> Doomed | None:
        """None for a video whose result lies in another store: it is not known which of its files here to keep."""
        kept = set()
        if rule.becomes is Collected.INTERMEDIATES and candidate.result is not None:
            try:
                kept = {self._store.key_of(ref) for ref in (candidate.result.video, candidate.result.poster)}
            except FailedPrecondition as error:
                logger.warning("video %s of %s: not collected: %s", candidate.key.video_id, candidate.key.tenant, error)
                return None
        below = _folder(candidate.key)
        files = [stored for stored in self._store.walk(below) if stored.key not in kept]
        return _sum(rule.why, candidate.key, files, rule.becomes)

    async def _without_video(self, batch: list[tuple[VideoKey, list[Stored]]]) -> list[Doomed]:
        """Those that were last written long ago: a video is recorded soon after its first file was written."""
        before = datetime.now(UTC) - self._retention.orphans
        old = {key: files for key, files in batch if max(stored.modified for stored in files) < before}
        needed = await self._collectable.needed(old) if old else {}
        return [_sum(Why.ORPHAN, key, files, None) for key, files in old.items() if not needed[key]]


def _by_video(stored: Iterable[Stored]) -> Iterator[tuple[VideoKey, list[Stored]]]:
    """Files by the video whose folder they are in; what is in no such folder is none of ours and left alone."""
    for (tenant, video_id), files in groupby(stored, lambda one: tuple(f"{one.key}//".split("/")[:2])):
        if _is_video_id(video_id):
            yield VideoKey(tenant, video_id), list(files)


def _folder(key: VideoKey) -> str:
    return f"{key.tenant}/{key.video_id}"


def _is_video_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _sum(why: Why, key: VideoKey, files: list[Stored], becomes: Collected | None) -> Doomed:
    return Doomed(why, key, tuple(one.key for one in files), sum(one.size_bytes for one in files), becomes)
