"""Keeps the places filled: a worker's part in the queue.

A video asks when its workflow begins, and every end of a video asks for whoever is next: a free place is taken at once.
A loop is for what was lost in between: it hands out places that came free by themselves, and repeats the word to videos
that were admitted and have not begun. Another renews the worker's lease, also while Temporal does not answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from libs.errors import SoundstageError
from services.gateway import metrics
from services.gateway.admission import Admission
from services.gateway.runner import Runner
from services.gateway.video import VideoKey

logger = logging.getLogger(__name__)

EVERY_SECONDS = 3.0
RENEWALS = 4
"""How many renewals of a lease may fail one after the other, at least."""
UNHEARD_SECONDS = 10.0
"""A video that was admitted begins within this time, or is told again."""
AT_ONCE = 100


class Dispatcher:
    """One a worker; `places` is how many videos it can have at work, `lease_seconds` how long it may be silent."""

    def __init__(self, admission: Admission, runner: Runner, places: int, lease_seconds: float) -> None:
        self._admission, self._runner, self._places = admission, runner, places
        self._lease_seconds = lease_seconds
        self._worker_id = str(uuid.uuid4())
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        await self._renew()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again_and_again(self._renew))
            group.create_task(self._again_and_again(self._hand_out))

    async def stop(self) -> None:
        """Gives its places back, so that nobody is admitted for a worker that is gone."""
        try:
            await self._admission.leave(self._worker_id)
        except SoundstageError as error:
            logger.warning("queue: %s; the lease ends by itself", error)

    async def dispatch(self, asking: VideoKey | None = None) -> None:
        """Hands out the free places and tells who got one; `asking` sees for itself."""
        async with self._turn:
            admitted = await self._admission.admit()
        metrics.ADMITTED.inc(len(admitted))
        await self._tell_all(key for key in admitted if key != asking)

    async def _again_and_again(self, work: Callable[[], Awaitable[None]]) -> NoReturn:
        """What goes wrong once is tried again the next time."""
        every_seconds = min(EVERY_SECONDS, self._lease_seconds / RENEWALS)
        while True:
            try:
                await work()
            except SoundstageError as error:
                logger.warning("queue: %s", error)
            await asyncio.sleep(every_seconds * random.uniform(0.8, 1.0))

    async def _renew(self) -> None:
        await self._admission.renew(self._worker_id, self._places, self._lease_seconds)

    async def _hand_out(self) -> None:
        await self.dispatch()
        before = datetime.now(UTC) - timedelta(seconds=UNHEARD_SECONDS)
        await self._tell_all(await self._admission.admitted_but_idle(before, AT_ONCE))

    async def _tell_all(self, keys: Iterable[VideoKey]) -> None:
        """At the same time: when Temporal does not answer, all together take as long as one."""
        await asyncio.gather(*(self._tell(key) for key in keys))

    async def _tell(self, key: VideoKey) -> None:
        try:
            await self._runner.admit(key)
        except SoundstageError as error:
            logger.warning("video %s of %s: %s; told again later", key.video_id, key.tenant, error)
