"""What the database knows about files that may go: of which videos, and which were deleted already."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, delete, or_, select, update

from services.gateway.database import Database
from services.gateway.retention import Rule
from services.gateway.states import TERMINAL
from services.gateway.tables import EventRow, VideoRow
from services.gateway.video import Collected, State, VideoKey, VideoResult, status_from_json


@dataclass(frozen=True)
class Candidate:
    """A video to which a rule applies. `update_time` is when it ended: nothing happens to a video after that."""

    key: VideoKey
    update_time: datetime
    result: VideoResult | None


class Collectable:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, rule: Rule, last: Candidate | None, limit: int) -> list[Candidate]:
        """Oldest first, after `last`."""
        wanted = [
            VideoRow.collected.in_([collected.value for collected in rule.not_yet]),
            VideoRow.state.in_([state.value for state in rule.states]),
            VideoRow.update_time < rule.before,
        ]
        if rule.after is not None:
            wanted.append(VideoRow.update_time >= rule.after)
        if last is not None:
            same = and_(VideoRow.update_time == last.update_time, VideoRow.video_id > last.key.video_id)
            wanted.append(or_(VideoRow.update_time > last.update_time, same))
        query = (
            select(VideoRow.tenant, VideoRow.video_id, VideoRow.update_time, VideoRow.status)
            .where(*wanted)
            .order_by(VideoRow.update_time, VideoRow.video_id)
            .limit(limit)
        )
        async with self._database.read() as session:
            rows = (await session.execute(query)).all()
        return [
            Candidate(VideoKey(row.tenant, row.video_id), row.update_time, status_from_json(row.status).result)
            for row in rows
        ]

    async def mark(self, key: VideoKey, collected: Collected) -> None:
        """Remembers what is gone; the previews in the video's events go with it. Fine for one that is deleted."""
        mine = and_(VideoRow.tenant == key.tenant, VideoRow.video_id == key.video_id)
        either = or_(EventRow.preview_jpeg.is_not(None), EventRow.preview_sound.is_not(None))
        with_preview = and_(EventRow.video_id == key.video_id, either)
        async with self._database.write() as session:
            await session.execute(update(VideoRow).where(mine).values(collected=collected.value))
            await session.execute(update(EventRow).where(with_preview).values(preview_jpeg=None, preview_sound=None))

    async def forgettable(self, before: datetime, limit: int) -> list[VideoKey]:
        """Videos that ended before then and have no files any more, oldest first."""
        query = (
            select(VideoRow.tenant, VideoRow.video_id)
            .where(VideoRow.collected == Collected.EVERYTHING.value, VideoRow.update_time < before)
            .where(VideoRow.state.in_([state.value for state in TERMINAL]))
            .order_by(VideoRow.update_time)
            .limit(limit)
        )
        async with self._database.read() as session:
            return [VideoKey(*row) for row in await session.execute(query)]

    async def forget(self, keys: Collection[VideoKey]) -> None:
        """With their events and attempts. What they cost stays in the ledger."""
        ids = [key.video_id for key in keys]
        async with self._database.write() as session:
            await session.execute(delete(VideoRow).where(VideoRow.video_id.in_(ids)))

    async def needed(self, keys: Collection[VideoKey]) -> Mapping[VideoKey, bool]:
        """For each key, whether a video of this name may still have files."""
        query = select(VideoRow.tenant, VideoRow.video_id, VideoRow.state, VideoRow.collected).where(
            VideoRow.video_id.in_([key.video_id for key in keys])
        )
        async with self._database.read() as session:
            rows = (await session.execute(query)).all()
        needed = {
            VideoKey(row.tenant, row.video_id)
            for row in rows
            if State(row.state) not in TERMINAL or Collected(row.collected) is not Collected.EVERYTHING
        }
        return {key: key in needed for key in keys}
