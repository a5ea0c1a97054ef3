"""Where the videos at work are, as figures: how many are in each stage, and for how long at most; read by each worker.

A stage counts from the begin of its newest attempt until the next stage begins. Five stages, three priorities: so many
series, whatever comes.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select

from services.gateway import metrics
from services.gateway.database import Database
from services.gateway.states import TERMINAL
from services.gateway.tables import QueueRow, VideoRow
from services.gateway.video import Priority, Stage


class Progressing:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def show(self) -> None:
        now, found = datetime.now(UTC), await self._stages()
        for stage in Stage:
            for priority in Priority:
                videos, since = found.get((stage.value, priority.value), (0, now))
                labels = stage.value, priority.value
                metrics.STAGE_VIDEOS.labels(*labels).set(videos)
                metrics.STAGE_OLDEST.labels(*labels).set(max((now - since).total_seconds(), 0.0))

    async def _stages(self) -> dict[tuple[str, str], tuple[int, datetime]]:
        """(stage, priority) -> videos, and when the first of them began; only those with videos."""
        # ISO 8601 in UTC: text that sorts as the times do.
        places = (
            select(
                VideoRow.status["stage"].as_string().label("stage"),
                QueueRow.priority.label("priority"),
                VideoRow.status["stage_start_time"].as_string().label("since"),
            )
            .join(VideoRow, VideoRow.video_id == QueueRow.video_id)
            .where(QueueRow.admit_time.is_not(None), VideoRow.state.not_in([state.value for state in TERMINAL]))
            .subquery()
        )
        query = (
            select(places.c.stage, places.c.priority, func.count(), func.min(places.c.since))
            .where(places.c.since.is_not(None))
            .group_by(places.c.stage, places.c.priority)
        )
        async with self._database.read() as session:
            rows = (await session.execute(query)).all()
        return {(stage, priority): (videos, datetime.fromisoformat(since)) for stage, priority, videos, since in rows}
