"""Parts that need no server: the state machine, the schema, image cleaning, completeness."""

from __future__ import annotations

import asyncio
import io
import itertools
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from PIL import Image
from sqlalchemy import create_engine, inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from libs.artifacts import Ref
from libs.errors import Internal
from services.gateway.database import Database
from services.gateway.images import Images
from services.gateway.settings import GatewaySettings
from services.gateway.states import NEXT, TERMINAL, advance, concluded
from services.gateway.tables import Base
from services.gateway.video import State, Status, VideoError, VideoResult

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RESULT = VideoResult(Ref("memory://v", "video/mp4", 1, "0" * 64), Ref("memory://p", "image/jpeg", 1, "0" * 64), 5.0)


def test_terminal_states_never_change() -> None:
    assert {State.SUCCEEDED, State.FAILED, State.CANCELLED} == TERMINAL
    for old, new in itertools.product(State, State):
        allowed = new in NEXT[old] or (old is new and old not in TERMINAL)
        if allowed:
            assert advance(Status(old), Status(new)).state is new
        else:
            with pytest.raises(Internal):
                advance(Status(old), Status(new))


@pytest.mark.parametrize(
    ("state", "result", "error", "expected"),
    [
        (State.RUNNING, RESULT, None, State.SUCCEEDED),
        (State.RUNNING, RESULT, VideoError("X", "x"), State.FAILED),
        (State.RUNNING, None, None, State.FAILED),
        (State.QUEUED, None, VideoError("X", "x"), State.FAILED),
        (State.CANCELLING, RESULT, None, State.CANCELLED),
        (State.CANCELLING, None, VideoError("X", "x"), State.CANCELLED),
    ],
)
def test_how_the_end_of_work_is_told(
    state: State, result: VideoResult | None, error: VideoError | None, expected: State
) -> None:
    ended = concluded(Status(state), NOW, result, error)
    assert ended.state is expected
    assert ended.end_time == NOW
    assert (ended.result is None) == (expected is not State.SUCCEEDED)
    assert (ended.error is None) == (expected is not State.FAILED)
    assert advance(Status(state), ended) == ended


async def test_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    databases = [Database(f"sqlite+aiosqlite:///{path}") for _ in range(6)]
    await asyncio.gather(*(database.migrate() for database in databases))
    await databases[0].migrate()
    await asyncio.gather(*(database.close() for database in databases))
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        indexes = {i["name"] for table in Base.metadata.tables for i in inspect(connection).get_indexes(table)}
    engine.dispose()
    assert "uq_stage_attempts_winner" in indexes


def test_the_schema_is_valid_for_postgresql() -> None:
    dialect = postgresql.dialect()
    for table in Base.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            assert "INDEX" in str(CreateIndex(index).compile(dialect=dialect))


async def test_images_come_out_plain_upright_and_not_too_large() -> None:
    picture = Image.new("RGBA", (3000, 100), (255, 0, 0, 255))
    picture.putpixel((0, 0), (0, 255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    exif[0x010E] = "secret"
    data = io.BytesIO()
    picture.save(data, format="PNG", exif=exif)
    cleaned = await Images().clean(data.getvalue())
    assert b"secret" not in cleaned
    image = Image.open(io.BytesIO(cleaned))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (68, 2048))
    assert not image.getexif()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
async def test_images_keep_their_colours(file_format: str) -> None:
    """Whatever the file's way of writing them: 16 bits, palettes, four inks."""
    grey16 = Image.fromarray(np.full((32, 32), 128 * 257, np.uint16))
    ways = {"PNG": [grey16, Image.new("L", (32, 32), 128)], "JPEG": [Image.new("CMYK", (32, 32), (127, 127, 127, 0))]}
    for way in ways[file_format]:
        data = io.BytesIO()
        way.save(data, format=file_format)
        cleaned = Image.open(io.BytesIO(await Images().clean(data.getvalue())))
        assert cleaned.mode == "RGB"
        assert all(abs(value - 128) <= 2 for value in cleaned.getpixel((7, 7)))


def test_a_worker_without_stage_addresses_does_not_start() -> None:
    with pytest.raises(ValueError, match="SOUNDSTAGE_GATEWAY_ENCODER_ADDRESS"):
        GatewaySettings(role="worker")
    assert GatewaySettings(role="api").role == "api"


def test_progress_does_not_change_the_state() -> None:
    running = Status(State.RUNNING)
    assert replace(running.with_progress(1, 2), step=0, total_steps=0) == running
