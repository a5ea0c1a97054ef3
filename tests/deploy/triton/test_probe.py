"""The chart's probe of Triton pods, against the real tritonserver: run as a kubelet runs it, by a bare python3."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from deploy.local.ports import free_ports
from deploy.triton.server import Tritonserver
from deploy.triton.wheel import SUPPORTED
from tests.deploy.rendering import CHART
from tests.support.light_triton import CRASH, SLEEP, light_tritonserver, order

SCRIPT = CHART / "files/triton/ready.py"

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="the wheel with tritonserver is for x86-64 Linux")


def probe(port: int, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(SCRIPT), f"--port={port}", "--seconds=30", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def call(server: Tritonserver, length: int) -> None:
    given = InferInput("given", [1, length], "FP32")
    given.set_data_from_numpy(np.zeros((1, length), np.float32))
    with InferenceServerClient(server.address) as client:
        client.infer("light", [given])


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("probe_of_triton", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def busy_during_a_call(server: Tritonserver, script: ModuleType) -> list[str]:
    """In this process: python3 itself may take longer to start than the call lasts. Again if it was over too soon."""
    busy: list[str] = []
    while not busy:
        thread = threading.Thread(target=call, args=(server, SLEEP))
        thread.start()
        while thread.is_alive() and not busy:
            busy = script.examine(server.http_port, 0.3)
        thread.join()
    return busy


def test_a_busy_pod_is_told_from_a_crashed_one(tmp_path: Path, script: ModuleType) -> None:
    """The model's folder is a link, as fetched engines are."""
    (tmp_path / "repository").mkdir()
    (tmp_path / "cache/light").mkdir(parents=True)
    (tmp_path / "repository/light").symlink_to(tmp_path / "cache/light", target_is_directory=True)
    with light_tritonserver(tmp_path) as server:
        port = server.http_port
        before = len(order(server))
        assert probe(port).returncode == 0
        assert len(order(server)) == before + 1

        assert busy_during_a_call(server, script)[0].startswith("/v2/models/light/infer")
        assert probe(port, "--busy=ok").returncode == 0

        with pytest.raises(InferenceServerException):
            call(server, CRASH)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=30) as answer:
            assert answer.status == 200
        for words in ((), ("--busy=ok",)):
            result = probe(port, *words)
            assert (result.returncode, "not healthy" in result.stderr) == (1, True), result.stderr


def test_without_a_server_it_fails(script: ModuleType) -> None:
    (port,) = free_ports(1)
    result = probe(port, "--busy=ok")
    assert (result.returncode, "refused" in result.stderr) == (1, True)


@pytest.mark.parametrize(("words", "code"), [(("--busy=ok",), 0), ((), 1)])
def test_no_time_is_busy(words: tuple[str, ...], code: int) -> None:
    (port,) = free_ports(1)
    assert probe(port, "--seconds=0", *words).returncode == code
