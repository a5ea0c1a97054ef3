"""A real S3 server for tests: SeaweedFS `weed mini`, on free ports of 127.0.0.1."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["S3Process", "S3Server", "s3_server", "serving_s3"]

_ACCESS_KEY = "soundstage-test"
_SECRET_KEY = "soundstage-test-secret"
_GRPC_OFFSET = 10_000
_MOST_BUCKETS = 2_000
"""Each has a volume of its own. Unsaid, as many may be made as there are free gigabytes, and then writes answer 500."""
_READY_SECONDS = 30.0
_STOP_SECONDS = 15.0


@dataclass
class S3Server:
    """``endpoint`` is host:port; the keys may do everything."""

    endpoint: str
    access_key: str
    secret_key: str

    def url(self, bucket: str) -> str:
        """What `open_store` and the setting `artifacts_url` take."""
        return f"s3://{bucket}?endpoint={self.endpoint}&secure=false&region=us-east-1"


class S3Process(S3Server):
    """`kill` and `start` make it go away and come back, with its data and on its port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = _free_ports(5)
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(f"127.0.0.1:{self._ports[3]}", _ACCESS_KEY, _SECRET_KEY)

    def start(self) -> None:
        master, volume, filer, s3, admin = self._ports
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(Path(sys.executable).parent / "weed"),
                    "-logtostderr=true",
                    "mini",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-dir={self._folder}",
                    f"-master.port={master}",
                    f"-volume.port={volume}",
                    f"-volume.max={_MOST_BUCKETS}",
                    f"-filer.port={filer}",
                    f"-s3.port={s3}",
                    f"-admin.port={admin}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    f"-s3.config={_write_identity(self._folder)}",
                    "-webdav=false",
                    "-admin.ui=false",
                ],
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        _wait_until_ready(self._process, f"http://127.0.0.1:{s3}/healthz", self._folder / "weed.log")

    def stop(self) -> None:
        if self._process is not None:
            _stop(self._process)
            self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_SECONDS)
            self._process = None


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for the whole run; each test takes a bucket of its own."""
    with serving_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@contextmanager
def serving_s3(folder: Path) -> Iterator[S3Process]:
    """Start the server with its data in ``folder``; stopped, and the data gone, at the end."""
    server = S3Process(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _write_identity(folder: Path) -> Path:
    identity = {
        "name": "soundstage",
        "credentials": [{"accessKey": _ACCESS_KEY, "secretKey": _SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    path = folder / "s3.json"
    path.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    return path


def _free_ports(count: int) -> list[int]:
    """Ports below the range that the system hands out itself, each free together with its gRPC twin 10,000 above."""
    candidates = random.sample(range(11_000, 22_000), 500)
    free = (port for port in candidates if _is_free(port) and _is_free(port + _GRPC_OFFSET))
    return [next(free) for _ in range(count)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1.0) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
    raise RuntimeError(f"weed mini is not ready (exit status {process.poll()}):\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_SECONDS)
