"""Apis and workers as real processes, with light stages that do nothing: for what measures the gateway alone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from soundstage.video.v1 import video_pb2 as pb
from soundstage.video.v1 import video_pb2_grpc as rpc

from deploy.local.ports import free_ports
from libs.serving import open_channel
from tests.support.stages import StageServers

PROMPT = "a campfire on a beach at night"
CALLERS = 20
"""Calls in flight at once while calls are counted."""
DEADLINE_SECONDS = 600.0


@dataclass
class Process:
    """`metadata` goes with every call to it."""

    pid: int
    address: str
    stub: rpc.VideoServiceAsyncStub
    metadata: tuple[tuple[str, str], ...] = ()

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


@dataclass
class Scene:
    """One database and one task queue, and what is started on them."""

    folder: Path
    temporal: str
    stages: StageServers
    database_url: str
    stack: AsyncExitStack

    async def start(self, role: str, **settings: object) -> Process:
        given = {
            "role": role,
            "database_url": self.database_url,
            "artifacts_url": (self.folder.parent / "artifacts").as_uri(),
            "temporal_address": self.temporal,
            "temporal_task_queue": self.folder.name,
            "max_queued_videos": 1_000_000,
            "max_concurrent_calls": 5000,
            "grace_seconds": 1,
            "grpc_port": free_ports(1)[0],
            "log_level": "WARNING",
            **{f"{name}_address": self.stages.address for name in ("encoder", "denoiser", "audio", "muxer")},
            **settings,
        }
        environment = {**os.environ, **{f"SOUNDSTAGE_GATEWAY_{k.upper()}": str(v) for k, v in given.items()}}
        process = self.stack.enter_context(running_python(["-m", "services.gateway"], environment, self.folder / "log"))
        address = f"127.0.0.1:{given['grpc_port']}"
        channel = await self.stack.enter_async_context(open_channel(address))
        await asyncio.wait_for(channel.channel_ready(), 120)
        stub = rpc.VideoServiceStub(channel)
        if role != "worker":
            await until_ready(stub)
        return Process(process.pid, address, stub)


@asynccontextmanager
async def open_scene(folder: Path, temporal: str, stages: StageServers, url: str) -> AsyncIterator[Scene]:
    for script in (stages.encode, stages.denoise, stages.render, stages.synthesize, stages.mux):
        script.requests.clear()
        script.steps, script.step_seconds, script.previews = 1, 0.0, False
    async with AsyncExitStack() as stack:
        yield Scene(folder, temporal, stages, url, stack)


@contextmanager
def running_python(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


async def create(api: Process, preset: pb.Preset.ValueType = pb.PRESET_STANDARD) -> str:
    request = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT, preset=preset))
    return (await api.stub.CreateVideo(request, metadata=api.metadata, timeout=120)).video.name


async def made(api: Process, name: str) -> pb.Video:
    request = pb.WatchVideoRequest(name=name)
    watch = api.stub.WatchVideo(request, metadata=api.metadata, timeout=DEADLINE_SECONDS)
    events = [event async for event in watch]
    if events[-1].video.state != pb.STATE_SUCCEEDED:
        raise RuntimeError(f"{name} did not succeed: {events[-1].video.error}")
    return events[-1].video


async def many_calls(count: int, call: Callable[[], Awaitable[Any]]) -> float:
    """Calls a second, `CALLERS` at a time."""
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return count / (time.perf_counter() - began)


async def until_ready(stub: rpc.VideoServiceAsyncStub) -> None:
    async with asyncio.timeout(120):
        while True:
            try:
                await stub.ListModels(pb.ListModelsRequest(), timeout=30)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:  # it answers, and asks who calls
                    return
                await asyncio.sleep(0.2)
            else:
                return


def waited_seconds(video: pb.Video) -> float:
    """From its creation to its first stage."""
    return epoch_seconds(video.start_time) - epoch_seconds(video.create_time)


def epoch_seconds(timestamp: Any) -> float:  # noqa: ANN401 - protobuf's Timestamp
    return float(timestamp.ToNanoseconds() / 1e9)
