"""The database itself, SQLite and PostgreSQL: processes that migrate at once, attempts that collide, a server away."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from libs.artifacts import Ref
from libs.errors import NotFound, Unavailable
from services.gateway.attempts import Attempts, Output
from services.gateway.changes import Changes
from services.gateway.database import Database
from services.gateway.ledger import Ledger
from services.gateway.records import Records
from services.gateway.retries import WORKER_LOST
from services.gateway.tables import Base
from services.gateway.tenants import Allowance, Tenants
from services.gateway.video import AudioIntent, Preset, Priority, Spec, Stage, Video, VideoKey
from tests.support.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MIGRATE = """
import asyncio, sys
from services.gateway.database import Database
async def main():
    database = Database(sys.argv[1])
    await database.migrate()
    await database.close()
asyncio.run(main())
"""
SPEC = Spec("diorama", "a campfire", "", 1.0, 12, 256, 256, 12.0, 4, 5.0, 1, Preset.FAST, AudioIntent.FULL)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gateway.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.create(f"test-{uuid.uuid4()}")


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    opened = Database(url)
    await opened.migrate()
    yield opened
    await opened.close()


def test_processes_that_start_at_once_migrate_once(url: str) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", MIGRATE, url]) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]


async def test_the_schema_is_what_the_code_says(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))

    async with database.read() as session:
        connection = await session.connection()
        assert await connection.run_sync(differences) == []


def records_of(database: Database) -> Records:
    return Records(database, Changes(), Tenants(database, Allowance()), Ledger(200))


def made(name: str) -> Output:
    return Output({"latents": Ref(f"memory://{name}", "application/test", 1, "0" * 64)}, NOW, 1.0)


async def accepted(database: Database) -> Video:
    key = VideoKey("local", str(uuid.uuid4()))
    video = Video(key, SPEC, None, Priority.STANDARD, None, "", "0" * 64, NOW)
    await records_of(database).accept(video)
    return video


async def test_of_attempts_that_end_at_once_one_counts(database: Database) -> None:
    attempts, video = Attempts(database), await accepted(database)
    names = [f"denoise-{number}" for number in range(1, 6)]
    for number, name in enumerate(names, 1):
        await attempts.begin(video, Stage.DENOISE, name, number)
    told = await asyncio.gather(*(attempts.finish(video.key, Stage.DENOISE, name, made(name)) for name in names))
    assert len({output.refs["latents"].uri for output in told}) == 1
    late = await attempts.finish(video.key, Stage.DENOISE, names[0], made("of a worker that was away"))
    assert late.refs == told[0].refs
    assert await attempts.winner(video.key, Stage.DENOISE) == late
    assert await attempts.failed(video.key, Stage.DENOISE) == []


async def test_writing_down_an_output_again_does_no_harm(database: Database) -> None:
    """The answer to the first try may have been lost with the connection."""
    attempts, video = Attempts(database), await accepted(database)
    await attempts.begin(video, Stage.DENOISE, "denoise-1", 1)
    first = await attempts.finish(video.key, Stage.DENOISE, "denoise-1", made("a"))
    assert await attempts.finish(video.key, Stage.DENOISE, "denoise-1", made("a")) == first


async def test_what_came_of_each_attempt_is_told(database: Database) -> None:
    attempts, video = Attempts(database), await accepted(database)
    await attempts.begin(video, Stage.MUX, "mux-1", 1)
    await attempts.begin(video, Stage.MUX, "mux-2", 2)
    await attempts.end(video.key, Stage.MUX, "mux-2", "GATE_FAILED", "x" * 500)
    lost, gate = await attempts.failed(video.key, Stage.MUX)
    assert (lost.number, lost.reason) == (1, WORKER_LOST)
    assert (gate.number, gate.reason, gate.message) == (2, "GATE_FAILED", "x" * 400)


async def test_an_output_of_a_deleted_video_goes_nowhere(database: Database) -> None:
    attempts, video = Attempts(database), await accepted(database)
    await attempts.begin(video, Stage.MUX, "mux-1", 1)
    await records_of(database).delete(video.key)
    with pytest.raises(NotFound):
        await attempts.finish(video.key, Stage.MUX, "mux-1", made("a"))


async def test_a_process_that_is_frozen_in_a_transaction_does_not_hold_up_the_others(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.database.IDLE_SECONDS", 1.0)
    url = postgres_server.create(f"test-{uuid.uuid4()}")
    frozen, other = Database(url), Database(url)
    await frozen.migrate()
    locked, thawed = asyncio.Event(), asyncio.Event()

    async def freeze() -> None:
        async with frozen.write() as session:
            await session.execute(text("LOCK TABLE videos IN EXCLUSIVE MODE"))
            locked.set()
            await thawed.wait()
            await session.execute(text("SELECT 1"))

    freezing = asyncio.create_task(freeze())
    await locked.wait()
    await accepted(other)
    thawed.set()
    with pytest.raises(Unavailable):
        await freezing
    await frozen.close()
    await other.close()


async def test_a_server_that_is_away_is_unavailable_and_then_used_again(postgres_server: PostgresServer) -> None:
    database = Database(postgres_server.create(f"test-{uuid.uuid4()}"))
    await database.migrate()
    records, video = records_of(database), await accepted(database)
    await asyncio.gather(*(records.get(video.key) for _ in range(4)))  # connections in the pool
    postgres_server.kill()
    try:
        for _ in range(2):
            with pytest.raises(Unavailable):
                await records.get(video.key)
        with pytest.raises(Unavailable):
            await accepted(database)
    finally:
        postgres_server.start()
    assert replace(await records.get(video.key), sequence=1) == video
    await database.close()
