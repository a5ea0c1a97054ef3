"""Which videos may be at work: a place each, handed out by the rule in `order.py`.

There are as many places as the living workers have together; a worker that dies loses its own when its lease ends. A
place belongs to a video and not to a worker, from its admission to its end: a video that has begun goes on, on whatever
worker, before another begins. Nobody frees a place by hand: the transaction that ends a video takes it off the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from libs.errors import FailedPrecondition
from services.gateway.database import Database
from services.gateway.order import Account, Line, Share, Waiting, due_time
from services.gateway.progress import work_units
from services.gateway.states import TERMINAL
from services.gateway.tables import QueueRow, TenantRow, TurnRow, VideoRow, WorkerRow
from services.gateway.video import Priority, Shape, Stage, State, Video, VideoKey

ADMISSION_LOCK = 7_205_002
"""PostgreSQL's advisory lock under which one process at a time hands out places; SQLite has one writer anyhow."""

COST_UNIT = 1e8
"""Picture elements times steps that cost 1, so that virtual times stay readable."""

DEADLINE_PASSED = "DEADLINE_PASSED"

_waiting = QueueRow.admit_time.is_(None)
_lane = (QueueRow.tenant, QueueRow.priority)
_within_lane = (QueueRow.due_time, QueueRow.create_time, QueueRow.video_id)


@dataclass(frozen=True)
class Place:
    """How a video stands: it may begin, or waits, and then until when at most (its deadline)."""

    admitted: bool
    deadline: datetime | None = None


@dataclass(frozen=True)
class Queue:
    """All that waits, in the order in which it begins if nothing else comes, and how many may be at work at once."""

    waiting: list[Waiting]
    places: int
    shapes: Mapping[str, Shape]


class Admission:
    """`usual` is the share of tenants without figures of their own."""

    def __init__(self, database: Database, ageing_seconds: float, usual: Share) -> None:
        self._database, self._usual = database, usual
        self._ageing = timedelta(seconds=ageing_seconds)

    async def admit(self) -> list[VideoKey]:
        """Gives every free place to the next video; returns those that may begin now."""
        async with self._database.read() as session:
            if await _free_places(session) <= 0 or not await session.scalar(select(func.count()).where(_waiting)):
                return []
        async with self._database.write() as session:
            if session.get_bind().dialect.name == "postgresql":
                await session.execute(text(f"SELECT pg_advisory_xact_lock({ADMISSION_LOCK})"))
            free = await _free_places(session)
            return await self._admit(session, free) if free > 0 else []

    async def place(self, key: VideoKey) -> Place | None:
        """None for a video that has ended or is not there."""
        async with self._database.read() as session:
            row = await session.get(QueueRow, key.video_id)
        return None if row is None else Place(row.admit_time is not None, row.deadline)

    async def admitted_but_idle(self, before: datetime, limit: int) -> list[VideoKey]:
        """Videos that were admitted before then and have not begun: word of it may have been lost."""
        query = (
            select(QueueRow.tenant, QueueRow.video_id)
            .join(VideoRow, VideoRow.video_id == QueueRow.video_id)
            .where(QueueRow.admit_time < before, VideoRow.state == State.QUEUED.value)
            .limit(limit)
        )
        async with self._database.read() as session:
            return [VideoKey(*row) for row in await session.execute(query)]

    async def renew(self, worker_id: str, places: int, lease_seconds: float) -> None:
        """The worker lives. Forgets those whose lease ended long ago."""
        now = datetime.now(UTC)
        row = WorkerRow(worker_id=worker_id, places=places, expire_time=now + timedelta(seconds=lease_seconds))
        async with self._database.write() as session:
            await session.merge(row)
            await session.execute(delete(WorkerRow).where(WorkerRow.expire_time < now - timedelta(hours=1)))

    async def leave(self, worker_id: str) -> None:
        async with self._database.write() as session:
            await session.execute(delete(WorkerRow).where(WorkerRow.worker_id == worker_id))

    async def queue(self) -> Queue:
        async with self._database.read() as session:
            places = await _places(session)
            waiting, shapes = [], dict[str, Shape]()
            for *queued, model, num_frames, width, height, steps in await session.execute(_with_shapes()):
                waiting.append(_video(queued))
                shapes[waiting[-1].video_id] = Shape(model, num_frames, width, height, steps)
            line = await self._line(session, waiting)
        return Queue(await asyncio.to_thread(list, line), places, shapes)

    async def _admit(self, session: AsyncSession, free: int) -> list[VideoKey]:
        now = datetime.now(UTC)
        line = await self._line(session, [_video(row) for row in await session.execute(_heads(free, now))])
        admitted: list[VideoKey] = []
        while len(admitted) < free and (taken := line.next()) is not None:
            video, account = taken
            await _give_place(session, video, account, now)
            admitted.append(VideoKey(video.tenant, video.video_id))
        return admitted

    async def _line(self, session: AsyncSession, waiting: Collection[Waiting]) -> Line:
        tenants = {video.tenant for video in waiting}
        shares = await self._shares(session, tenants)
        return Line(
            waiting,
            await _accounts(session, tenants),
            lambda tenant: shares.get(tenant, self._usual),
            virtual_time=await session.scalar(select(func.max(TurnRow.start))) or 0.0,
            now=datetime.now(UTC),
            ageing=self._ageing,
        )

    async def _shares(self, session: AsyncSession, tenants: Collection[str]) -> dict[str, Share]:
        rows = await session.scalars(select(TenantRow).where(TenantRow.tenant.in_(tenants)))
        most = self._usual.max_at_work
        return {
            row.tenant: Share(row.weight, most if row.max_running_videos is None else row.max_running_videos)
            for row in rows
        }


def enqueue(session: AsyncSession, video: Video) -> None:
    """In the transaction that accepts it."""
    row = QueueRow(
        video_id=video.key.video_id,
        tenant=video.key.tenant,
        priority=video.priority.value,
        create_time=video.create_time,
        due_time=due_time(video.create_time, video.deadline),
        deadline=video.deadline,
        cost=work_units(Stage.DENOISE, video.spec.shape) / COST_UNIT,
        expected_seconds=sum(video.expected_seconds.values()),
        admit_time=None,
    )
    session.add(row)


async def queued_videos(session: AsyncSession, tenant: str) -> int:
    """How many of the tenant's videos have no place yet."""
    return await session.scalar(select(func.count()).where(QueueRow.tenant == tenant, _waiting)) or 0


async def follow_state(session: AsyncSession, video: Video) -> None:
    """In the transaction that changes a video's state: one that begins holds a place, one that ends none."""
    mine = QueueRow.video_id == video.key.video_id
    if video.status.state in TERMINAL:
        await session.execute(delete(QueueRow).where(mine))
    elif video.status.state is State.RUNNING:
        await session.execute(update(QueueRow).where(mine, _waiting).values(admit_time=datetime.now(UTC)))


def check_deadline(deadline: datetime | None) -> None:
    """For a video that has not begun. Raises FailedPrecondition, reason DEADLINE_PASSED."""
    if deadline is not None and deadline <= datetime.now(UTC):
        raise FailedPrecondition(
            "its deadline passed before it could begin; create it again with a later one or a higher priority",
            reason=DEADLINE_PASSED,
            deadline=deadline.isoformat(),
        )


def _columns() -> Select[str, str, str, datetime, datetime, float]:
    return select(
        QueueRow.video_id,
        QueueRow.tenant,
        QueueRow.priority,
        QueueRow.create_time,
        QueueRow.due_time,
        QueueRow.cost,
    )


def _with_shapes() -> Select[Any]:
    sizes = [VideoRow.spec[name].as_integer() for name in ("num_frames", "width", "height", "num_inference_steps")]
    joined = _columns().add_columns(VideoRow.model, *sizes).join(VideoRow, VideoRow.video_id == QueueRow.video_id)
    return joined.where(_waiting)


def _heads(count: int, now: datetime) -> Select[str, str, str, datetime, datetime, float]:
    """Of every tenant's classes the first `count`, and the oldest, from whose age a class's own is told."""
    place = func.row_number().over(partition_by=_lane, order_by=_within_lane).label("place")
    age = func.row_number().over(partition_by=_lane, order_by=QueueRow.create_time).label("age")
    in_time = or_(QueueRow.deadline.is_(None), QueueRow.deadline > now)
    lanes = select(QueueRow.video_id, place, age).where(_waiting, in_time).subquery()
    return (
        _columns()
        .join(lanes, lanes.c.video_id == QueueRow.video_id)
        .where(or_(lanes.c.place <= count, lanes.c.age == 1))
    )


def _video(row: Sequence[Any]) -> Waiting:
    video_id, tenant, priority, create_time, due, cost = row
    return Waiting(video_id, tenant, Priority(priority), create_time, due, cost)


async def _places(session: AsyncSession) -> int:
    living = WorkerRow.expire_time > datetime.now(UTC)
    return await session.scalar(select(func.coalesce(func.sum(WorkerRow.places), 0)).where(living)) or 0


async def _free_places(session: AsyncSession) -> int:
    return await _places(session) - (await session.scalar(select(func.count()).where(~_waiting)) or 0)


async def _accounts(session: AsyncSession, tenants: Collection[str]) -> dict[str, Account]:
    turns: dict[str, list[TurnRow]] = {tenant: [] for tenant in tenants}
    for row in await session.scalars(select(TurnRow).where(TurnRow.tenant.in_(tenants))):
        turns[row.tenant].append(row)
    busy = select(QueueRow.tenant, func.count()).where(~_waiting).group_by(QueueRow.tenant)
    at_work: dict[str, int] = dict((await session.execute(busy)).all())
    return {
        tenant: Account(
            start=max((row.start for row in rows), default=0.0),
            finish=max((row.finish for row in rows), default=0.0),
            last_turns={Priority(row.priority): row.last_time for row in rows},
            at_work=at_work.get(tenant, 0),
        )
        for tenant, rows in turns.items()
    }


async def _give_place(session: AsyncSession, video: Waiting, account: Account, now: datetime) -> None:
    await session.execute(update(QueueRow).where(QueueRow.video_id == video.video_id).values(admit_time=now))
    row = TurnRow(
        tenant=video.tenant,
        priority=video.priority.value,
        start=account.start,
        finish=account.finish,
        last_time=now,
    )
    await session.merge(row)
