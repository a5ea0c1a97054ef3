"""Sets right what a lost process left behind, so that every accepted video ends.

- QUEUED without a workflow: the process that accepted it was lost before it started the work. Started now.
- CANCELLING with work that goes on: the wish to stop was lost. Passed on again; with no work it is CANCELLED.
- RUNNING without work: the workflow was ended from outside, or its end could not be written down. SUCCEEDED if the last
  stage gave its result, else FAILED, reason WORK_LOST.

Only videos to which nothing happened for a while are looked at, a bounded number at a time, by each worker; doing the
same thing twice does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from libs.errors import SoundstageError, Unavailable
from libs.serving import span
from services.gateway import metrics, states
from services.gateway.attempts import Attempts
from services.gateway.concluding import conclude
from services.gateway.records import Records
from services.gateway.runner import Runner, Work
from services.gateway.video import Stage, State, Video, VideoError

logger = logging.getLogger(__name__)

AT_ONCE = 100
LOST = VideoError("WORK_LOST", "the work on this video was lost; create it again")


class Sweeper:
    def __init__(
        self, records: Records, attempts: Attempts, runner: Runner, every_seconds: float, quiet_seconds: float
    ) -> None:
        self._records, self._attempts, self._runner = records, attempts, runner
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
            except Unavailable:
                raise
            except SoundstageError as error:  # of this video alone; those after it must not wait for it
                logger.warning("video %s of %s: sweep: %s", video.key.video_id, video.key.tenant, error)
            await self._records.touch(video.key)

    async def _look_at(self, video: Video) -> None:
        if video.status.state is State.CANCELLING:
            if await self._runner.cancel(video.key) is not Work.RUNNING:
                await self._end(video, "ended")
            return
        work = await self._runner.state(video.key)
        if work is Work.MISSING and video.status.state is State.QUEUED:
            with span("start", tenant=video.key.tenant, video_id=video.key.video_id):
                await self._runner.start(video)
            self._note(video, "started")
        elif work is not Work.RUNNING:
            await self._end(video, "ended")

    async def _end(self, video: Video, action: str) -> None:
        """Lost is only what has no result: the work may have been done and its end not written down."""
        muxed = await self._attempts.winner(video.key, Stage.MUX)
        await conclude(self._records, self._attempts, video.key, None if muxed else LOST)
        self._note(video, action)

    def _note(self, video: Video, action: str) -> None:
        metrics.SWEPT.labels(action=action).inc()
        logger.warning("video %s of %s: %s by the sweeper", video.key.video_id, video.key.tenant, action)
