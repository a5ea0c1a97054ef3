"""One process that can be killed, frozen and started again on the same port and data."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local.health import is_serving
from deploy.local.processes import Process, start, stop, tail

READY_SECONDS = 90.0
POLL_SECONDS = 0.05
REPOSITORY = Path(__file__).parents[2]


class Member:
    """`grpc`: it answers health checks; else an open port is all that can be seen of it."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], port: int, folder: Path, *, grpc: bool
    ) -> None:
        self.name, self.port = name, port
        self._command, self._environment, self._grpc = tuple(command), dict(environment), grpc
        self.log = folder / f"{name}.log"
        self._process: Process | None = None
        self._times = 0

    def launch(self) -> None:
        """Starts it; `wait` says when it is ready. What it wrote before is kept beside its log."""
        self._times += 1
        if self.log.exists():
            self.log.replace(self.log.with_suffix(f".{self._times}.log"))
        self._process = start(
            self.name,
            self._command,
            {**os.environ, **self._environment},
            folder=REPOSITORY,
            port=self.port,
            log=self.log,
            end_with_parent=True,
        )

    def wait(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.is_alive():
            if is_serving(self.port) if self._grpc else _is_open(self.port):
                return
            time.sleep(POLL_SECONDS)
        raise RuntimeError(f"{self.name} is not ready:\n{tail(self.log)}")

    def kill(self) -> None:
        """As `kill -9` does; with what it has started itself."""
        if self._process is not None and self.is_alive():
            os.killpg(self._process.pid, signal.SIGKILL)
            while self.is_alive():
                time.sleep(0.005)

    def freeze(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        if self._process is not None and self.is_alive():
            self.thaw()
            stop([self._process], grace_seconds=5.0)

    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
