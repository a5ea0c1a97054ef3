"""What the queue asks for, as figures for autoscalers, dashboards and alerts; read by each worker every so often.

How many videos should be at work: each one that is, since what works for it must not be taken away, and of each queued
one a share: its seconds of denoising over `clear_seconds`, at most one. The chart's ScaledObjects ask PostgreSQL for
the same; a test compares.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from sqlalchemy import Float, and_, case, cast, exists, func, select

from libs.errors import SoundstageError
from services.gateway import metrics
from services.gateway.database import Database
from services.gateway.tables import AttemptRow, QueueRow, VideoRow
from services.gateway.video import Priority, Stage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lane:
    """The videos of one model and priority that have not ended. `oldest`: how long one has been queued, 0 for none."""

    model: str
    priority: Priority
    queued: int
    at_work: int
    oldest: timedelta
    wanted: float
    wanted_for_denoising: float


class Demand:
    """`seconds_per_unit`: seconds of denoising for what costs 1 (`admission.COST_UNIT`), while none were measured."""

    def __init__(self, database: Database, clear_seconds: float, seconds_per_unit: float) -> None:
        self._database = database
        self._clear_seconds, self._seconds_per_unit = clear_seconds, seconds_per_unit
        self._known: set[tuple[str, str]] = set()

    async def lanes(self) -> list[Lane]:
        waiting = QueueRow.admit_time.is_(None)
        seconds = func.coalesce(
            VideoRow.expected_seconds[Stage.DENOISE.value].as_float(), QueueRow.cost * self._seconds_per_unit
        )
        share = seconds / self._clear_seconds
        wanted = case((~waiting, 1.0), (share > 1.0, 1.0), else_=cast(share, Float))
        denoised = exists().where(
            and_(
                AttemptRow.video_id == QueueRow.video_id,
                AttemptRow.stage == Stage.DENOISE.value,
                AttemptRow.won == 1,
            )
        )
        query = (
            select(
                VideoRow.model,
                QueueRow.priority,
                func.sum(case((waiting, 1), else_=0)),
                func.sum(case((waiting, 0), else_=1)),
                func.min(case((waiting, QueueRow.create_time))),
                func.sum(wanted),
                func.sum(case((denoised, 0.0), else_=wanted)),
            )
            .join(VideoRow, VideoRow.video_id == QueueRow.video_id)
            .group_by(VideoRow.model, QueueRow.priority)
        )
        async with self._database.read() as session:
            rows = (await session.execute(query)).all()
        now = datetime.now(UTC)
        return [
            Lane(model, Priority(priority), queued, at_work, _age(oldest, now), total, denoising)
            for model, priority, queued, at_work, oldest, total, denoising in rows
        ]

    async def show(self) -> None:
        """Sets the gauges; a lane that is empty now falls to zero, so that nobody scales on what was."""
        lanes = {(lane.model, lane.priority.value): lane for lane in await self.lanes()}
        for model, priority in self._known | set(lanes):
            lane = lanes.get((model, priority)) or Lane(model, Priority(priority), 0, 0, timedelta(), 0.0, 0.0)
            metrics.QUEUED.labels(model, priority).set(lane.queued)
            metrics.AT_WORK.labels(model, priority).set(lane.at_work)
            metrics.OLDEST_QUEUED.labels(model, priority).set(lane.oldest.total_seconds())
        for model in {model for model, _ in self._known | set(lanes)}:
            mine = [lane for lane in lanes.values() if lane.model == model]
            metrics.WANTED_REPLICAS.labels(model).set(sum(lane.wanted_for_denoising for lane in mine))
            metrics.WANTED_PLACES.labels(model).set(sum(lane.wanted for lane in mine))
        self._known |= set(lanes)


async def show_every(seconds: float, *shown: Callable[[], Awaitable[None]]) -> NoReturn:
    """Until cancelled. While the database is away the gauges stay as they are."""
    while True:
        try:
            for show in shown:
                await show()
            metrics.QUEUE_READ.set_to_current_time()
        except SoundstageError as error:
            logger.warning("demand: %s", error)
        await asyncio.sleep(seconds * random.uniform(0.8, 1.0))


def _age(since: datetime | None, now: datetime) -> timedelta:
    return timedelta() if since is None else max(now - since.replace(tzinfo=since.tzinfo or UTC), timedelta())
