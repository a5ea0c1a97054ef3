"""The connection to the database, and bringing its schema up to date.

The setting names SQLite or PostgreSQL by an ordinary URL; the drivers are chosen here. SQLite has a write-ahead
log, so that readers never wait for a writer, and every writing transaction takes the write lock when it begins (BEGIN
IMMEDIATE): taking it later could fail half-way, whatever the busy timeout. Writers wait for each other at most
`BUSY_TIMEOUT_SECONDS`; those of one process in order, by a lock of their own, since SQLite's waits by sleeping and has
no order.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.util import await_only

from libs.errors import Unavailable

BUSY_TIMEOUT_SECONDS = 15
CONNECT_SECONDS, COMMAND_SECONDS = 5.0, 30.0
"""How long PostgreSQL may take to let us in, and for one statement."""
IDLE_SECONDS = 10.0
"""PostgreSQL ends a transaction whose process is silent for so long: frozen, it would keep its locks from others."""
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
AWAY_STATES = ("08", "25P03", "40", "53", "55P03", "57P")
"""SQLSTATEs: connection lost, silent too long, rolled back, out of a resource, lock not to be had, server stopping."""
WRITE_AHEAD_LOG_ATTEMPTS = 50
MIGRATION_LOCK = 7_205_001
"""Any constant number: PostgreSQL's advisory lock under which only one process migrates at a time."""


class Database:
    """Gives sessions; `async with database.write() as session` commits at the end, or rolls back on an error."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._writing = self._engine.execution_options(soundstage_write=True)
        self._turn: AbstractAsyncContextManager[Any] = nullcontext()
        if self._engine.dialect.name == "sqlite":
            self._turn = asyncio.Lock()
            event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(self._engine.sync_engine, "begin", _begin_sqlite)

    async def migrate(self) -> None:
        """Brings the schema to the newest version; safe when several processes start at once."""
        with _translated():
            await self._migrate()

    async def _migrate(self) -> None:
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
            async with self._turn, AsyncSession(self._writing, expire_on_commit=False) as session, session.begin():
                yield session

    async def close(self) -> None:
        await self._engine.dispose()


class _translated:  # noqa: N801 - reads as a word in `with`
    """Turns a database that is away or busy into Unavailable, so that callers may retry."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if error is not None and _is_away(error):
            raise Unavailable("the database is away or busy; try again", reason="DATABASE_UNAVAILABLE") from error


def _is_away(error: BaseException) -> bool:
    """Whether it is the fault of the server, the connection, a full disk, or of others who write at the moment."""
    if isinstance(error, DBAPIError):
        state = str(getattr(error.orig, "sqlstate", None) or "")
        return isinstance(error, OperationalError) or error.connection_invalidated or state.startswith(AWAY_STATES)
    return isinstance(error, OSError | PoolTimeoutError)  # a refused connection comes as the system said it


def _engine(url: str) -> AsyncEngine:
    parsed = make_url(url)
    driver = DRIVERS.get(parsed.drivername, parsed.drivername)
    if driver.startswith("sqlite"):
        return create_async_engine(parsed.set(drivername=driver), hide_parameters=True)
    return create_async_engine(
        parsed.set(drivername=driver),
        hide_parameters=True,  # an error that is logged must not show what was written: a prompt
        connect_args={
            "timeout": CONNECT_SECONDS,
            "command_timeout": COMMAND_SECONDS,
            "server_settings": {
                "application_name": "soundstage-gateway",
                "idle_in_transaction_session_timeout": str(round(IDLE_SECONDS * 1000)),
                "lock_timeout": str(BUSY_TIMEOUT_SECONDS * 1000),
            },
        },
        pool_timeout=BUSY_TIMEOUT_SECONDS,
        pool_pre_ping=True,  # after a restart of the server, every connection in the pool is dead
    )


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
