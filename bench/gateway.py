"""The gateway alone: real api and worker processes, real Temporal and databases, light stages that do nothing.

What takes time is the gateway's own work, and whatever else the machine does meanwhile; its load is in the results.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import grpc
from soundstage.video.v1 import video_pb2 as pb
from soundstage.video.v1 import video_pb2_grpc as rpc

from bench.echo import METHOD
from bench.options import Options
from bench.results import Figure, Results
from libs.artifacts import FolderStore
from libs.serving import open_channel
from tests.support.postgres import serving_postgres
from tests.support.stages import StageServers, serving_stages
from tests.support.temporal import serving_temporal

PROMPT = "a campfire on a beach at night"
CALLERS = 20
"""Calls in flight at once while creates and echoes are counted."""
IDLE_VIDEOS, COUNTED_CREATES, ECHOES = 15, 200, 4000
WATCHERS = (10, 100, 1000)
WATCH_SECONDS = 5.0
QUEUED = 1000
HANDED_OVER = 30
ETA_WARM, ETA_VIDEOS = 4, 12
ETA_STEP_SECONDS, ETA_STAGE_SECONDS = {"short": 0.1, "long": 0.5}, 0.3
"""Of a step of denoising, of which half of the videos have 10 and half 25, and of each of the other stages."""
LEAST_LEFT_SECONDS = 1.0
"""An ETA is judged while at least this much is left: a relative error of the last moments says nothing."""
DEADLINE_SECONDS = 600.0


@dataclass
class Process:
    pid: int
    address: str
    stub: rpc.VideoServiceAsyncStub

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
            "grpc_port": _free_port(),
            "log_level": "WARNING",
            **{f"{name}_address": self.stages.address for name in ("encoder", "denoiser", "audio", "muxer")},
            **settings,
        }
        environment = {**os.environ, **{f"SOUNDSTAGE_GATEWAY_{k.upper()}": str(v) for k, v in given.items()}}
        process = self.stack.enter_context(_running(["-m", "services.gateway"], environment, self.folder / "log"))
        address = f"127.0.0.1:{given['grpc_port']}"
        channel = await self.stack.enter_async_context(open_channel(address))
        await asyncio.wait_for(channel.channel_ready(), 120)
        stub = rpc.VideoServiceStub(channel)
        if role != "worker":
            await _until_ready(stub)
        return Process(process.pid, address, stub)


def run(options: Options) -> Results:
    with tempfile.TemporaryDirectory(prefix="soundstage-bench-") as folder:
        return asyncio.run(_run(Path(folder), options))


async def _run(folder: Path, options: Options) -> Results:
    figures: list[Figure] = []
    began_load = os.getloadavg()[0]
    with serving_temporal(folder) as temporal, serving_postgres() as postgres:
        async with serving_stages(FolderStore(folder / "artifacts")) as stages:

            def scene(name: str, url: str) -> AbstractAsyncContextManager[Scene]:
                here = folder / f"{name}-{uuid.uuid4().hex[:8]}"
                here.mkdir()
                return _scene(here, temporal, stages, url)

            async with scene("idle", f"sqlite:///{folder / 'idle.db'}") as idle:
                figures += await _idle_and_eta(idle)
            echoes = await _echoes_a_second()
            figures.append(Figure("echoes_a_second", echoes, "count"))
            async with scene("sqlite", f"sqlite:///{folder / 'queue.db'}") as sqlite:
                api, creates = await _creates(sqlite, "sqlite", echoes)
                figures += creates
                figures += await _many(sqlite, api, options.videos)
            async with scene("postgresql", postgres.create("bench")) as server:
                figures += (await _creates(server, "postgresql", echoes))[1]
    details = {
        "videos": options.videos,
        "callers": CALLERS,
        "load_average_at_begin": round(began_load, 2),
        "note": "the machine's load is other work's; figures in seconds and counts are upper and lower bounds by it",
    }
    return Results(figures, details)


async def _idle_and_eta(scene: Scene) -> list[Figure]:
    """One video at a time, on an idle gateway; then a dozen at once, whose ETAs are compared with what came.

    Twice: of videos of 2 and 4 s, where much of the time is the gateway's own and the machine's, and of 6 and 14 s.
    """
    api = await scene.start("api")
    await scene.start("worker", max_concurrent_stages=2)
    videos = [await _made(api, await _create(api)) for _ in range(IDLE_VIDEOS)]
    latencies = [_seconds(video.start_time) - _seconds(video.create_time) for video in videos]
    return [
        *_spread("create_to_running.idle", latencies),
        *await _eta(scene, api, "short"),
        *await _eta(scene, api, "long"),
    ]


async def _eta(scene: Scene, api: Process, name: str) -> list[Figure]:
    stages = scene.stages
    stages.denoise.steps, stages.denoise.step_seconds = None, ETA_STEP_SECONDS[name]
    for other in (stages.encode, stages.render, stages.synthesize, stages.mux):
        other.step_seconds = ETA_STAGE_SECONDS
    presets = [pb.PRESET_FAST, pb.PRESET_STANDARD]
    for index in range(ETA_WARM):
        await _made(api, await _create(api, presets[index % 2]))
    names = [await _create(api, presets[index % 2]) for index in range(ETA_VIDEOS)]
    errors = [error for found in await asyncio.gather(*(_eta_errors(api, name) for name in names)) for error in found]
    return [
        Figure(f"eta_error.{name}.median", median(errors), "ratio"),
        Figure(f"eta_error.{name}.p90", _p90(errors), "ratio"),
        Figure(f"eta_error.{name}.estimates", len(errors), "count"),
    ]


async def _eta_errors(api: Process, name: str) -> list[float]:
    """Of every ETA that a watcher of the video was told, at the moment at which it arrived."""
    told: list[tuple[float, float]] = []
    async for event in api.stub.WatchVideo(pb.WatchVideoRequest(name=name), timeout=DEADLINE_SECONDS):
        if event.video.progress.HasField("eta"):
            told.append((time.time(), event.video.progress.eta.ToNanoseconds() / 1e9))
    end = _seconds(event.video.end_time)
    judged = [(eta, end - when) for when, eta in told if end - when >= LEAST_LEFT_SECONDS]
    return [abs(eta - actual) / actual for eta, actual in judged]


async def _creates(scene: Scene, name: str, echoes: float) -> tuple[Process, list[Figure]]:
    """Accepted videos a second with nobody at work: record, workflow and answer."""
    api = await scene.start("api", tenant="many")
    await _many_calls(CALLERS, lambda: _create(api))
    rate = await _many_calls(COUNTED_CREATES, lambda: _create(api))
    return api, [
        Figure(f"creates_a_second.{name}", rate, "count"),
        Figure(f"creates_over_echoes.{name}", rate / echoes, "ratio"),
    ]


async def _many(scene: Scene, api: Process, videos: int) -> list[Figure]:
    figures = [Figure("memory.api_before", api.memory_mib(), "MiB")]
    made = COUNTED_CREATES + CALLERS
    await _many_calls(max(QUEUED - made, 0), lambda: _create(api))
    for count in WATCHERS:
        figures.append(await _watching(api, count))
    figures += await _queued(scene)
    await _many_calls(max(videos - QUEUED, 0), lambda: _create(api))
    figures.append(Figure(f"memory.api_after_{videos}_videos", api.memory_mib(), "MiB"))
    return figures


async def _watching(api: Process, count: int) -> Figure:
    """CPU time of the api a watcher and second, each of whom watches another queued video."""
    names: list[str] = []
    token = ""
    while len(names) < count:
        page = await api.stub.ListVideos(pb.ListVideosRequest(page_size=200, page_token=token), timeout=60)
        names, token = names + [video.name for video in page.videos], page.next_page_token
    calls = [api.stub.WatchVideo(pb.WatchVideoRequest(name=name), timeout=120) for name in names[:count]]
    await asyncio.gather(*(call.read() for call in calls))
    before, began = api.cpu_seconds(), time.monotonic()
    await asyncio.sleep(WATCH_SECONDS)
    spent = (api.cpu_seconds() - before) / (time.monotonic() - began) / count
    for call in calls:
        call.cancel()
    return Figure(f"cpu_a_watcher_second.{count}_watchers", spent, "s")


async def _queued(scene: Scene) -> list[Figure]:
    """A thousand of one tenant wait; one of another comes. One place, so that who follows whom is plain."""
    other = await scene.start("api", tenant="other")
    worker = await scene.start("worker", max_concurrent_stages=1)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(scene.stages.encode.requests) < HANDED_OVER:  # noqa: ASYNC110 - another process fills it
            await asyncio.sleep(0.1)
    before = len(scene.stages.encode.requests)
    name = await _create(other)
    video = await _made(other, name)
    order = [request.attempt.video_id for request in scene.stages.encode.requests]
    passed = order.index(name.removeprefix("videos/")) - before
    figures = [
        Figure("create_to_running.1000_queued", _seconds(video.start_time) - _seconds(video.create_time), "s"),
        Figure("videos_before_it.1000_queued", passed, "count", "≤ 2"),
        Figure("memory.worker_1000_queued", worker.memory_mib(), "MiB"),
    ]
    os.kill(worker.pid, 15)
    return figures


async def _create(api: Process, preset: pb.Preset.ValueType = pb.PRESET_STANDARD) -> str:
    request = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT, preset=preset))
    return (await api.stub.CreateVideo(request, timeout=120)).video.name


async def _made(api: Process, name: str) -> pb.Video:
    events = [event async for event in api.stub.WatchVideo(pb.WatchVideoRequest(name=name), timeout=DEADLINE_SECONDS)]
    if events[-1].video.state != pb.STATE_SUCCEEDED:
        raise RuntimeError(f"{name} did not succeed: {events[-1].video.error}")
    return events[-1].video


async def _echoes_a_second() -> float:
    port = _free_port()
    with _running(["-m", "bench.echo", str(port)], dict(os.environ), Path(os.devnull)):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)
            echo: Any = channel.unary_unary(METHOD)
            await _many_calls(CALLERS, lambda: echo(b"x" * 100))
            return await _many_calls(ECHOES, lambda: echo(b"x" * 100))


async def _many_calls(count: int, call: Callable[[], Awaitable[Any]]) -> float:
    """Calls a second, `CALLERS` at a time."""
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return count / (time.perf_counter() - began)


async def _until_ready(stub: rpc.VideoServiceAsyncStub) -> None:
    async with asyncio.timeout(120):
        while True:
            try:
                await stub.ListModels(pb.ListModelsRequest(), timeout=30)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.2)
            else:
                return


@asynccontextmanager
async def _scene(folder: Path, temporal: str, stages: StageServers, url: str) -> AsyncIterator[Scene]:
    for script in (stages.encode, stages.denoise, stages.render, stages.synthesize, stages.mux):
        script.requests.clear()
        script.steps, script.step_seconds, script.previews = 1, 0.0, False
    async with AsyncExitStack() as stack:
        yield Scene(folder, temporal, stages, url, stack)


@contextmanager
def _running(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
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


def _spread(name: str, values: list[float]) -> list[Figure]:
    return [Figure(f"{name}.median", median(values), "s"), Figure(f"{name}.p90", _p90(values), "s")]


def _p90(values: list[float]) -> float:
    return quantiles(values, n=10)[-1]


def _seconds(timestamp: Any) -> float:  # noqa: ANN401 - protobuf's Timestamp
    return float(timestamp.ToNanoseconds() / 1e9)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
