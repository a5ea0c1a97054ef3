"""The connection to the database, and bringing its schema up to date.

SQLite is used with a write-ahead log, so that readers never wait for a writer, and every writing transaction takes
the write lock when it begins (BEGIN IMMEDIATE): taking it later could fail half-way, whatever the busy timeout.
Writers wait for each other at most `BUSY_TIMEOUT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.util import await_only

from libs.errors import Unavailable

BUSY_TIMEOUT_SECONDS = 15
WRITE_AHEAD_LOG_ATTEMPTS = 50
MIGRATION_LOCK = 7_205_001
"""Any constant number: PostgreSQL's advisory lock under which only one process migrates at a time."""


class Database:
    """Gives sessions; `async with database.write() as session` commits at the end, or rolls back on an error."""

    def __init__(self, url: str) -> None:
        self._engine = create_async_engine(url)
        self._writing = self._engine.execution_options(soundstage_write=True)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(self._engine.sync_engine, "begin", _begin_sqlite)

    async def migrate(self) -> None:
        """Brings the schema to the newest version; safe when several processes start at once."""
        async with self._writing.begin() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            await connection.run_sync(_upgrade)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        with _translated():
            async with AsyncSession(self._engine, expire_on_commit=False) as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        with _translated():
            async with AsyncSession(self._writing, expire_on_commit=False) as session, session.begin():
                yield session

    async def close(self) -> None:
        await self._engine.dispose()


class _translated:  # noqa: N801 - reads as a word in `with`
    """Turns a database that is away or busy into Unavailable, so that callers may retry."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OperationalError):
            raise Unavailable("the database is away or busy; try again", reason="DATABASE_UNAVAILABLE") from error


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's own type
    connection.isolation_level = None  # transactions begin in _begin_sqlite, not by the driver's guess
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    _use_write_ahead_log(cursor)
    cursor.close()


def _use_write_ahead_log(cursor: Any) -> None:  # noqa: ANN401 - a driver's own type
    """The one change of a new file for which SQLite does not wait: of two processes at once, one is told "locked"."""
    for _ in range(WRITE_AHEAD_LOG_ATTEMPTS - 1):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            await_only(asyncio.sleep(random.uniform(0.02, 0.1)))
        else:
            return
    cursor.execute("PRAGMA journal_mode=WAL")


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get("soundstage_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
