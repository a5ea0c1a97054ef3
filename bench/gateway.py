"""The gateway alone: real api and worker processes, real Temporal and databases, light stages that do nothing.

What takes time is the gateway's own work, and whatever else the machine does meanwhile; its load is in the results.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
import uuid
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import grpc
from soundstage.video.v1 import video_pb2 as pb

from bench.echo import METHOD
from bench.light_gateway import (
    CALLERS,
    DEADLINE_SECONDS,
    Process,
    Scene,
    create,
    epoch_seconds,
    made,
    many_calls,
    open_scene,
    running_python,
    waited_seconds,
)
from bench.options import Options
from bench.results import Figure, Results
from deploy.local.ports import free_ports
from libs.artifacts import FolderStore
from tests.support.postgres import serving_postgres
from tests.support.stages import serving_stages
from tests.support.temporal import serving_temporal

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
                return open_scene(here, temporal, stages, url)

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
    videos = [await made(api, await create(api)) for _ in range(IDLE_VIDEOS)]
    latencies = [waited_seconds(video) for video in videos]
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
        await made(api, await create(api, presets[index % 2]))
    names = [await create(api, presets[index % 2]) for index in range(ETA_VIDEOS)]
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
    end = epoch_seconds(event.video.end_time)
    judged = [(eta, end - when) for when, eta in told if end - when >= LEAST_LEFT_SECONDS]
    return [abs(eta - actual) / actual for eta, actual in judged]


async def _creates(scene: Scene, name: str, echoes: float) -> tuple[Process, list[Figure]]:
    """Accepted videos a second with nobody at work: record, workflow and answer."""
    api = await scene.start("api", tenant="many")
    await many_calls(CALLERS, lambda: create(api))
    rate = await many_calls(COUNTED_CREATES, lambda: create(api))
    return api, [
        Figure(f"creates_a_second.{name}", rate, "count"),
        Figure(f"creates_over_echoes.{name}", rate / echoes, "ratio"),
    ]


async def _many(scene: Scene, api: Process, videos: int) -> list[Figure]:
    figures = [Figure("memory.api_before", api.memory_mib(), "MiB")]
    there = COUNTED_CREATES + CALLERS
    await many_calls(max(QUEUED - there, 0), lambda: create(api))
    for count in WATCHERS:
        figures.append(await _watching(api, count))
    figures += await _queued(scene)
    await many_calls(max(videos - QUEUED, 0), lambda: create(api))
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
    name = await create(other)
    video = await made(other, name)
    order = [request.attempt.video_id for request in scene.stages.encode.requests]
    passed = order.index(name.removeprefix("videos/")) - before
    figures = [
        Figure("create_to_running.1000_queued", waited_seconds(video), "s"),
        Figure("videos_before_it.1000_queued", passed, "count", "≤ 2"),
        Figure("memory.worker_1000_queued", worker.memory_mib(), "MiB"),
    ]
    os.kill(worker.pid, 15)
    return figures


async def _echoes_a_second() -> float:
    (port,) = free_ports(1)
    with running_python(["-m", "bench.echo", str(port)], dict(os.environ), Path(os.devnull)):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)
            echo: Any = channel.unary_unary(METHOD)
            await many_calls(CALLERS, lambda: echo(b"x" * 100))
            return await many_calls(ECHOES, lambda: echo(b"x" * 100))


def _spread(name: str, values: list[float]) -> list[Figure]:
    return [Figure(f"{name}.median", median(values), "s"), Figure(f"{name}.p90", _p90(values), "s")]


def _p90(values: list[float]) -> float:
    return quantiles(values, n=10)[-1]
