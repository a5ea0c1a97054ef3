"""Figures of tenants: the largest by name, the others together, and never more series than that."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from libs.errors import Unavailable
from services.gateway import metrics
from services.gateway.database import Database
from services.gateway.demand import show_every
from services.gateway.tables import AttemptRow, QueueRow, VideoRow
from services.gateway.usage import NAMED_TENANTS, OTHERS, Usage
from tests.support.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]

NOW = datetime.now(UTC)
AN_HOUR_AGO = NOW - timedelta(minutes=61)
GAUGES = (
    metrics.TENANT_QUEUED,
    metrics.TENANT_AT_WORK,
    metrics.TENANT_ENDED,
    metrics.TENANT_CREDITS,
    metrics.TENANT_GPU_SECONDS,
)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path}/gateway.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        database = Database(server.create(f"test-{uuid.uuid4()}"))
    await database.migrate()
    for gauge in GAUGES:
        gauge.clear()  # the process has one of each, for all tests
    yield database
    await database.close()


async def add(
    database: Database,
    tenant: str,
    state: str,
    *,
    ended: datetime = NOW,
    millicredits: int = 0,
    gpu_seconds: tuple[float, ...] = (),
) -> None:
    """``gpu_seconds``: of an attempt each."""
    common = {"video_id": uuid.uuid4().hex, "tenant": tenant, "priority": "STANDARD", "create_time": NOW}
    video = VideoRow(
        **common,
        request_id="",
        request_hash="",
        model="diorama",
        spec={},
        update_time=ended,
        expected_seconds={},
        state=state,
        status={},
        sequence=1,
        cost_millicredits=millicredits,
    )
    place = QueueRow(
        **common, due_time=NOW, cost=1.0, expected_seconds=1.0, admit_time=NOW if state == "RUNNING" else None
    )
    async with database.write() as session:
        session.add(video)
        await session.flush()
        if state in ("QUEUED", "RUNNING"):
            session.add(place)
        for number, seconds in enumerate(gpu_seconds):
            session.add(an_attempt(video.video_id, number, seconds))


def an_attempt(video_id: str, number: int, gpu_seconds: float) -> AttemptRow:
    return AttemptRow(
        video_id=video_id,
        stage="DENOISE",
        attempt=str(number),
        model="diorama",
        work_units=1.0,
        start_time=NOW,
        end_time=NOW,
        outcome="FINISHED",
        won=int(number == 0),
        seconds=2 * gpu_seconds,
        load_seconds=0.0,
        gpu_seconds=gpu_seconds,
        duration_seconds=0.0,
        outputs={},
    )


def shown(name: str) -> dict[tuple[str, ...], float]:
    (family,) = (one for one in REGISTRY.collect() if one.name == f"soundstage_gateway_tenant_{name}")
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


async def test_each_tenant_has_its_figures(database: Database) -> None:
    for state in ("QUEUED", "QUEUED", "RUNNING"):
        await add(database, "acme", state)
    await add(database, "acme", "RUNNING", gpu_seconds=(64.0,))
    await add(database, "acme", "SUCCEEDED", millicredits=1500, gpu_seconds=(0.5, 4.0))
    await add(database, "acme", "FAILED", millicredits=250, gpu_seconds=(2.0,))
    await add(database, "acme", "SUCCEEDED", ended=AN_HOUR_AGO, millicredits=9000, gpu_seconds=(32.0,))
    await add(database, "other", "QUEUED")
    await Usage(database).show()
    assert shown("queued_videos") == {("acme",): 2, ("other",): 1}
    assert shown("at_work_videos") == {("acme",): 2, ("other",): 0}
    assert shown("ended_videos") == {("acme", "SUCCEEDED"): 1, ("acme", "FAILED"): 1}
    assert shown("spent_credits") == {("acme",): 1.75}
    assert shown("gpu_seconds") == {("acme",): 6.5}


async def test_the_smallest_tenants_share_one_series(database: Database) -> None:
    usage = Usage(database)
    for number in range(NAMED_TENANTS):
        for _ in range(2):
            await add(database, f"large-{number}", "QUEUED")
    for number in range(3):
        await add(database, f"small-{number}", "QUEUED")
    await usage.show()
    queued = shown("queued_videos")
    assert len(queued) == NAMED_TENANTS + 1
    assert queued[OTHERS,] == 3
    for _ in range(3):
        await add(database, "small-0", "QUEUED")
    await usage.show()
    assert shown("queued_videos")["small-0",] == 4
    assert len(shown("queued_videos")) == NAMED_TENANTS + 1


async def test_only_a_reading_that_succeeds_counts_as_one() -> None:
    """The alert SoundstageNoWorkers looks at the time of the last one."""
    tries = 0

    async def away_at_first() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unavailable("away", reason="DATABASE_UNAVAILABLE")
        raise asyncio.CancelledError

    async def well() -> None:
        pass

    metrics.QUEUE_READ.set(0)
    with pytest.raises(asyncio.CancelledError):
        await show_every(0.001, well, away_at_first)
    assert metrics.QUEUE_READ._value.get() == 0
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(show_every(0.001, well), 0.05)
    assert metrics.QUEUE_READ._value.get() >= NOW.timestamp()
