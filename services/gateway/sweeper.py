"""Sets right what a lost process left behind, so that every accepted video ends.

- QUEUED without a workflow: the process that accepted it was lost before it started the work. Started now.
- CANCELLING with work that goes on: the wish to stop was lost. Passed on again; with no work it is CANCELLED.
- RUNNING without work: the workflow was ended from outside. FAILED, reason WORK_LOST.

Only videos to which nothing happened for a while are looked at, a bounded number at a time, by each worker; doing the
same thing twice does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from libs.errors import NotFound, SoundstageError
from services.gateway import metrics, states
from services.gateway.records import Records
from services.gateway.runner import Runner, Work
from services.gateway.video import State, Status, Video, VideoError

logger = logging.getLogger(__name__)

AT_ONCE = 100
LOST = VideoError("WORK_LOST", "the work on this video was lost; create it again")


class Sweeper:
    def __init__(self, records: Records, runner: Runner, every_seconds: float, quiet_seconds: float) -> None:
        self._records, self._runner = records, runner
        self._every_seconds, self._quiet_seconds = every_seconds, quiet_seconds

    async def run(self) -> NoReturn:
        """Sweeps until cancelled; what goes wrong once is tried again the next time."""
        while True:
            await asyncio.sleep(self._every_seconds * random.uniform(0.8, 1.2))
            try:
                await self.sweep()
            except SoundstageError as error:
                logger.warning("sweep: %s", error)

    async def sweep(self) -> None:
        before = datetime.now(UTC) - timedelta(seconds=self._quiet_seconds)
        for video in await self._records.quiet_since(states.ACTIVE, before, AT_ONCE):
            try:
                await self._look_at(video)
                await self._records.touch(video.key)
            except NotFound:  # deleted meanwhile
                continue

    async def _look_at(self, video: Video) -> None:
        if video.status.state is State.CANCELLING:
            if await self._runner.cancel(video.key) is not Work.RUNNING:
                await self._end(video, "cancelled")
            return
        work = await self._runner.state(video.key)
        if work is Work.MISSING and video.status.state is State.QUEUED:
            await self._runner.start(video)
            self._note(video, "started")
        elif work is not Work.RUNNING:
            await self._end(video, "failed")

    async def _end(self, video: Video, action: str) -> None:
        def ended(status: Status) -> Status:
            if status.state in states.TERMINAL:
                return status
            return states.concluded(status, datetime.now(UTC), None, LOST)

        await self._records.change(video.key, ended)
        self._note(video, action)

    def _note(self, video: Video, action: str) -> None:
        metrics.SWEPT.labels(action=action).inc()
        logger.warning("video %s of %s: %s by the sweeper", video.key.video_id, video.key.tenant, action)
