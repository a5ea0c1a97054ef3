"""A real Temporal server for tests: the single-binary development server on SQLite, on a free port of 127.0.0.1."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.ports import free_ports

__all__ = ["serving_temporal", "temporal_address", "temporal_command"]

_READY_SECONDS = 30.0
_STOP_SECONDS = 10.0
_BINARY = Path(sys.executable).with_name("temporal")


@pytest.fixture(scope="session")
def temporal_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of one server for the whole session; tests keep apart by their task queues."""
    with serving_temporal(tmp_path_factory.mktemp("temporal")) as address:
        yield address


@contextmanager
def serving_temporal(folder: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    command = temporal_command(folder, port)
    with (folder / "temporal.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_open(port, process, folder / "temporal.log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def temporal_command(folder: Path, port: int) -> list[str]:
    return [
        *(str(_BINARY), "server", "start-dev", "--headless", "--log-level", "error"),
        *("--ip", "127.0.0.1", "--port", str(port), "--db-filename", str(folder / "temporal.db")),
    ]


def _wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the Temporal server did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.05)
        else:
            return
