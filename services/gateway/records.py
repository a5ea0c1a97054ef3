"""What the gateway remembers: videos and their events. The stages' attempts are in `attempts.py`.

Every change of a video is one transaction that writes the new status and appends one event with the next sequence
number, so a watcher sees exactly what happened, in order. Every look-up is by tenant.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from libs.artifacts import Ref
from libs.errors import NotFound, ResourceExhausted
from services.gateway import metrics
from services.gateway.admission import enqueue, follow_state, queued_videos
from services.gateway.changes import Changes, Listener
from services.gateway.database import Database
from services.gateway.ledger import Ledger
from services.gateway.price import MILLI
from services.gateway.states import ACTIVE, TERMINAL, advance
from services.gateway.tables import EventRow, QueueRow, VideoRow
from services.gateway.tenants import Allowance, Tenants
from services.gateway.video import (
    Collected,
    Priority,
    Stage,
    State,
    Status,
    Video,
    VideoKey,
    ref_from_json,
    ref_to_json,
    spec_from_json,
    spec_to_json,
    status_from_json,
    status_to_json,
)

logger = logging.getLogger(__name__)

ASKED_AT_ONCE = 500
"""Ids in one query; SQLite takes 32,766, but a query of that size is no quicker."""


@dataclass(frozen=True)
class Event:
    sequence: int
    time: datetime
    status: Status
    preview_jpeg: bytes = b""
    preview_sound: Ref | None = None


@dataclass(frozen=True)
class Quota:
    """`millicredits` and `next_grant` are None where nothing is charged."""

    tenant: str
    allowance: Allowance
    active: dict[State, int]
    millicredits: int | None
    next_grant: datetime | None


@dataclass(frozen=True)
class Filter:
    """Which videos a list shows; what is empty or None lets all through. `created_after` is included, the other not."""

    states: frozenset[State] = frozenset()
    models: frozenset[str] = frozenset()
    priorities: frozenset[Priority] = frozenset()
    created_after: datetime | None = None
    created_before: datetime | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        if self.states:
            yield VideoRow.state.in_([state.value for state in self.states])
        if self.models:
            yield VideoRow.model.in_(self.models)
        if self.priorities:
            yield VideoRow.priority.in_([priority.value for priority in self.priorities])
        if self.created_after:
            yield VideoRow.create_time >= self.created_after
        if self.created_before:
            yield VideoRow.create_time < self.created_before


@dataclass(frozen=True)
class Place:
    """Where a page of a list goes on: after the video with this creation time and id."""

    create_time: datetime
    video_id: str


class Records:
    def __init__(self, database: Database, changes: Changes, tenants: Tenants, ledger: Ledger) -> None:
        self._database, self._tenants, self._ledger = database, tenants, ledger
        self.changes = changes

    def listen(self, listener: Listener) -> None:
        """Be told at once of every change that this process makes."""
        self.changes.listen(listener)

    async def accept(self, video: Video) -> tuple[Video, bool]:
        """Stores a new QUEUED video with its first event, and reserves its cost; True if it is new.

        A video of the same tenant and request_id that is already there is returned instead, with False; the caller
        compares the hashes. Raises ResourceExhausted when the tenant has too many queued videos or too few credits.
        """
        async with self._database.write() as session:
            # First: a repeat at this very moment must find the video, not the limit that the video reached.
            allowance = await self._tenants.lock(session, video.key.tenant)
            if earlier := await _by_request(session, video.key.tenant, video.request_id):
                return earlier, False
            await _check_queued(session, video.key.tenant, allowance)
            await self._ledger.reserve(session, video, allowance.daily_credits)
            await _insert(session, video)
        _tell_state(video, None)
        return video, True

    async def find_request(self, tenant: str, request_id: str) -> Video | None:
        async with self._database.read() as session:
            return await _by_request(session, tenant, request_id)

    async def get(self, key: VideoKey) -> Video:
        """Raises NotFound, reason VIDEO_NOT_FOUND."""
        async with self._database.read() as session:
            return _video(await _row(session, key))

    async def page(self, tenant: str, only: Filter, after: Place | None, limit: int) -> list[Video]:
        """Newest first."""
        query = select(VideoRow).where(VideoRow.tenant == tenant, *only.conditions())
        if after:
            older = VideoRow.create_time < after.create_time
            same = and_(VideoRow.create_time == after.create_time, VideoRow.video_id < after.video_id)
            query = query.where(or_(older, same))
        query = query.order_by(VideoRow.create_time.desc(), VideoRow.video_id.desc()).limit(limit)
        async with self._database.read() as session:
            return [_video(row) for row in await session.scalars(query)]

    async def change(
        self,
        key: VideoKey,
        new: Callable[[Status], Status],
        preview_jpeg: bytes = b"",
        expected_seconds: Mapping[Stage, float] | None = None,
        preview_sound: Ref | None = None,
    ) -> Video:
        """Applies `new` to the status and appends an event; does nothing if the status stays and no preview came.

        `states.advance` refuses what the state machine does not allow (Internal). What `new` raises, goes through.
        With the terminal state, the credits that were not used go back. `expected_seconds` replaces what was known.
        """
        async with self._database.write() as session:
            row = await _row(session, key, lock=True)
            before = _video(row)
            status = new(before.status)
            if status == before.status and not preview_jpeg and preview_sound is None:
                return before
            status = advance(before.status, status)
            expected = dict(expected_seconds or before.expected_seconds)
            after = replace(before, status=status, sequence=before.sequence + 1, expected_seconds=expected)
            if status.state in TERMINAL and after.cost_millicredits:
                await self._tenants.lock(session, key.tenant)
                after = replace(after, cost_millicredits=await self._ledger.settle(session, after))
            _write_status(row, after)
            session.add(_event_row(after, preview_jpeg, preview_sound))
            if status.state is not before.status.state:
                await follow_state(session, after)
        if status.state is not before.status.state:
            _tell_state(after, before.status.state)
        self.changes.tell(key.video_id, after.sequence)
        return after

    async def delete(self, key: VideoKey) -> None:
        """Forgets the video, its events and attempts. Forgetting one that is not there is fine."""
        async with self._database.write() as session:
            mine = and_(VideoRow.tenant == key.tenant, VideoRow.video_id == key.video_id)
            await session.execute(delete(VideoRow).where(mine))
        logger.info("video %s of %s: deleted", key.video_id, key.tenant)
        self.changes.tell(key.video_id, None)

    async def sequences(self, video_ids: Collection[str]) -> dict[str, int]:
        """The newest event's number of each that is there."""
        found: dict[str, int] = {}
        async with self._database.read() as session:
            ids = list(video_ids)
            for begin in range(0, len(ids), ASKED_AT_ONCE):
                some = ids[begin : begin + ASKED_AT_ONCE]
                query = select(VideoRow.video_id, VideoRow.sequence).where(VideoRow.video_id.in_(some))
                found.update((await session.execute(query)).all())
        return found

    async def events(self, key: VideoKey, after_sequence: int, limit: int) -> Sequence[Event]:
        """Oldest first. The caller has checked that the video is the tenant's."""
        query = (
            select(EventRow)
            .join(VideoRow, VideoRow.video_id == EventRow.video_id)
            .where(VideoRow.tenant == key.tenant, EventRow.video_id == key.video_id)
            .where(EventRow.sequence > after_sequence)
            .order_by(EventRow.sequence)
            .limit(limit)
        )
        async with self._database.read() as session:
            return [_event(row) for row in await session.scalars(query)]

    async def quota(self, tenant: str, charges: bool) -> Quota:
        """What the tenant may use, and has left; the day's credits are added, as they are before a video is paid."""
        allowance = await self._tenants.allowance(tenant)
        async with self._database.read() as session:
            active = await _active(session, tenant)
            balance = await self._ledger.balance_if_settled(session, tenant) if charges else None
        if not charges:
            return Quota(tenant, allowance, active, None, None)
        if balance is None:
            async with self._database.write() as session:
                await self._tenants.lock(session, tenant)
                balance = await self._ledger.balance(session, tenant, allowance.daily_credits)
        return Quota(tenant, allowance, active, balance, self._ledger.next_grant())

    async def at_work(self) -> list[Video]:
        """Videos of all tenants that have a place."""
        query = select(VideoRow).join(QueueRow, QueueRow.video_id == VideoRow.video_id)
        async with self._database.read() as session:
            return [_video(row) for row in await session.scalars(query.where(QueueRow.admit_time.is_not(None)))]

    async def quiet_since(self, states: Collection[State], before: datetime, limit: int) -> list[Video]:
        """Videos of all tenants in one of `states` to which nothing happened since `before`, oldest first."""
        wanted = VideoRow.state.in_([state.value for state in states])
        query = (
            select(VideoRow).where(wanted, VideoRow.update_time < before).order_by(VideoRow.update_time).limit(limit)
        )
        async with self._database.read() as session:
            return [_video(row) for row in await session.scalars(query)]

    async def touch(self, key: VideoKey) -> None:
        """Counts as something that happened to the video, without an event: `quiet_since` puts it last."""
        mine = and_(VideoRow.tenant == key.tenant, VideoRow.video_id == key.video_id)
        async with self._database.write() as session:
            await session.execute(update(VideoRow).where(mine).values(update_time=datetime.now(UTC)))


async def _row(session: AsyncSession, key: VideoKey, *, lock: bool = False) -> VideoRow:
    query = select(VideoRow).where(VideoRow.tenant == key.tenant, VideoRow.video_id == key.video_id)
    row = await session.scalar(query.with_for_update() if lock else query)
    if row is None:
        raise _not_found(key)
    return row


async def _by_request(session: AsyncSession, tenant: str, request_id: str) -> Video | None:
    if not request_id:
        return None
    query = select(VideoRow).where(VideoRow.tenant == tenant, VideoRow.request_id == request_id)
    row = await session.scalar(query)
    return _video(row) if row else None


async def _active(session: AsyncSession, tenant: str) -> dict[State, int]:
    active = VideoRow.state.in_([state.value for state in ACTIVE])
    query = select(VideoRow.state, func.count()).where(VideoRow.tenant == tenant, active).group_by(VideoRow.state)
    found: dict[State, int] = {State(state): count for state, count in await session.execute(query)}
    return {state: found.get(state, 0) for state in ACTIVE}


async def _check_queued(session: AsyncSession, tenant: str, allowance: Allowance) -> None:
    queued, most = await queued_videos(session, tenant), allowance.max_queued_videos
    if queued >= most:
        raise ResourceExhausted(
            f"{queued} videos are queued and {most} may be: wait for one to begin, or cancel one",
            reason="TOO_MANY_QUEUED_VIDEOS",
            subject=f"tenant:{tenant}",
            queued_videos=str(queued),
            max_queued_videos=str(most),
        )


async def _insert(session: AsyncSession, video: Video) -> None:
    row = VideoRow(
        video_id=video.key.video_id,
        tenant=video.key.tenant,
        request_id=video.request_id,
        request_hash=video.request_hash,
        model=video.spec.model,
        spec=spec_to_json(video.spec),
        image=ref_to_json(video.image),
        priority=video.priority.value,
        deadline=video.deadline,
        create_time=video.create_time,
    )
    _write_status(row, video)
    session.add(row)
    await session.flush()
    session.add(_event_row(video, b""))
    enqueue(session, video)


def _write_status(row: VideoRow, video: Video) -> None:
    row.state = video.status.state.value
    row.status = status_to_json(video.status)
    row.sequence = video.sequence
    row.expected_seconds = {stage.value: seconds for stage, seconds in video.expected_seconds.items()}
    row.cost_millicredits = video.cost_millicredits
    row.update_time = datetime.now(UTC)


def _event_row(video: Video, preview_jpeg: bytes, preview_sound: Ref | None = None) -> EventRow:
    return EventRow(
        video_id=video.key.video_id,
        sequence=video.sequence,
        time=datetime.now(UTC),
        status=status_to_json(video.status),
        preview_jpeg=preview_jpeg or None,
        preview_sound=ref_to_json(preview_sound),
    )


def _event(row: EventRow) -> Event:
    sound = ref_from_json(row.preview_sound)
    return Event(row.sequence, row.time, status_from_json(row.status), row.preview_jpeg or b"", sound)


def _video(row: VideoRow) -> Video:
    return Video(
        key=VideoKey(row.tenant, row.video_id),
        spec=spec_from_json(row.spec),
        image=ref_from_json(row.image),
        priority=Priority(row.priority),
        deadline=row.deadline,
        request_id=row.request_id,
        request_hash=row.request_hash,
        create_time=row.create_time,
        expected_seconds={Stage(stage): seconds for stage, seconds in row.expected_seconds.items()},
        status=status_from_json(row.status),
        sequence=row.sequence,
        collected=Collected(row.collected),
        cost_millicredits=row.cost_millicredits,
    )


def _not_found(key: VideoKey) -> NotFound:
    return NotFound(f"there is no video videos/{key.video_id}", reason="VIDEO_NOT_FOUND", video_id=key.video_id)


def _tell_state(video: Video, old: State | None) -> None:
    key, new = video.key, video.status.state
    logger.info("video %s of %s: %s -> %s", key.video_id, key.tenant, old or "new", new)
    if new is State.QUEUED:
        metrics.VIDEOS_ACCEPTED.inc()
    if new in TERMINAL:
        metrics.VIDEOS_ENDED.labels(state=new.value).inc()
        metrics.COST.labels(model=video.spec.model, state=new.value).inc(video.cost_millicredits / MILLI)
