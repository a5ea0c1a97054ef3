"""How many videos are in each stage, and since when, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import delete

from services.gateway.changes import Changes
from services.gateway.database import Database
from services.gateway.ledger import Ledger
from services.gateway.progressing import Progressing
from services.gateway.records import Records
from services.gateway.tables import QueueRow, VideoRow
from services.gateway.tenants import Allowance, Tenants
from services.gateway.video import Priority, Stage, State, Status, Video, VideoKey
from tests.services.gateway.test_ledger import SPEC
from tests.support.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]

NOW = datetime.now(UTC)


async def add(records: Records, name: str, priority: Priority, status: Status | None) -> None:
    """As the gateway writes it; with a place unless it is queued."""
    video = Video(VideoKey("acme", name), SPEC, None, priority, None, "", "hash", NOW)
    await records.accept(video)
    if status is not None:
        await records.change(video.key, lambda _: status)


def running(stage: Stage, seconds_ago: float) -> Status:
    return Status(State.RUNNING, stage, 1, 4, stage_start_time=NOW - timedelta(seconds=seconds_ago))


def shown(what: str) -> dict[tuple[str, ...], float]:
    (family,) = (one for one in REGISTRY.collect() if one.name == f"soundstage_gateway_stage_{what}")
    return {tuple(one.labels.values()): one.value for one in family.samples if one.value}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_videos_at_work_count_where_they_are(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}/gateway.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.create("progressing")
    database = Database(url)
    await database.migrate()
    tenants = Tenants(database, Allowance(max_queued_videos=10, daily_credits=0))
    records = Records(database, Changes(), tenants, Ledger(0))
    await add(records, "a", Priority.BATCH, running(Stage.DENOISE, 100))
    await add(records, "b", Priority.BATCH, running(Stage.DENOISE, 700))
    await add(records, "c", Priority.INTERACTIVE, running(Stage.MUX, 10))
    await add(records, "waits", Priority.BATCH, None)
    async with database.write() as session:
        await session.execute(QueueRow.__table__.update().where(QueueRow.video_id != "waits").values(admit_time=NOW))
    figures = Progressing(database)
    await figures.show()
    assert shown("videos") == {("denoise", "BATCH"): 2, ("mux", "INTERACTIVE"): 1}
    assert set(shown("oldest_seconds")) == set(shown("videos"))
    assert 700 <= shown("oldest_seconds")["denoise", "BATCH"] < 3600
    async with database.write() as session:
        await session.execute(delete(VideoRow))
    await figures.show()
    assert shown("videos") == shown("oldest_seconds") == {}
    await database.close()
