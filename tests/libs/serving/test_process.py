"""A service as a process of its own: what SIGTERM and SIGINT do to it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import grpc
import pytest
from soundstage.encoder.v1 import encoder_pb2_grpc as rpc

from tests.libs.serving.echo import encode_request

ROOT = Path(__file__).parents[3]


@contextmanager
def _service(work_seconds: float, grace_seconds: float) -> Iterator[tuple[subprocess.Popen[str], IO[str], str]]:
    """The process, its log, and the address it serves on."""
    command = [sys.executable, "-m", "tests.libs.serving.served", str(work_seconds), str(grace_seconds)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            first = json.loads(process.stderr.readline())
            assert first["message"] == "serving"
            yield process, process.stderr, first["address"]
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_call_in_flight_finish_and_ends_cleanly(number: signal.Signals) -> None:
    with _service(work_seconds=0.5, grace_seconds=10) as (process, log, address):
        async with grpc.aio.insecure_channel(address) as channel:
            call = rpc.EncoderServiceStub(channel).Encode(encode_request(), timeout=60)
            assert (await anext(aiter(call))).progress.step == 1
            process.send_signal(number)
            assert [event.progress.step async for event in call if event.HasField("progress")] == [2]
        assert await asyncio.to_thread(process.wait, 10) == 0
        lines = [json.loads(line) for line in log]
    assert [line["message"] for line in lines] == ["stopping", "stopped"]


async def test_work_that_ignores_its_cancellation_does_not_keep_the_process() -> None:
    with _service(work_seconds=60, grace_seconds=0.3) as (process, _, address):
        async with grpc.aio.insecure_channel(address) as channel:
            call = rpc.EncoderServiceStub(channel).Encode(encode_request(), timeout=60)
            assert (await anext(aiter(call))).progress.step == 1
            began = time.monotonic()
            process.terminate()
            await asyncio.to_thread(process.wait, 20)
        assert time.monotonic() - began < 10
