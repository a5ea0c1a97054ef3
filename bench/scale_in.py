"""Scale-in under load: of two denoisers the busier one is told to stop in the middle of its videos.

The whole stack with Diorama's own weights, as `make up` starts it, but with two denoisers between which the gateway's
calls go in turn. As when Kubernetes takes a pod away: SIGTERM, the grace, the end; nobody takes its place. No video may
be lost; how many steps were made twice is what checkpoints are for.
"""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
from soundstage.video.v1 import video_pb2 as pb

from bench.options import Options
from bench.results import Figure, Results
from client import SoundstageClient
from deploy.local.plan import Planned, plan
from deploy.local.ports import free_ports
from deploy.local.stack import start_stack, stop_stack
from deploy.local.state import State

VIDEOS, SECONDS, STEPS = 8, 1.0, 25
SECOND = "denoiser-2"
PROMPT, SEED = "a campfire at night", 3
BEGUN_STEPS = 30
DEADLINE_SECONDS, POLL_SECONDS = 600.0, 0.05


def run(options: Options) -> Results:
    with tempfile.TemporaryDirectory(prefix="soundstage-bench-") as folder:
        state = State(Path(folder))
        metrics = dict(zip(("denoiser", SECOND), free_ports(2), strict=True))
        try:
            address = start_stack(
                state,
                end_with_parent=True,
                say=lambda text: print(f"  {text}"),
                planned=partial(two_denoisers, metrics),
            )
            with SoundstageClient(address) as client:
                return _measure(state, client, metrics, options.steps or STEPS, Path(folder))
        finally:
            stop_stack(state)


def two_denoisers(
    metrics: Mapping[str, int], state: State, inherited: Mapping[str, str], triton: bool
) -> list[Planned]:
    """`make up`'s plan with a second denoiser, half of the cores each. ``metrics``: their ports of metrics."""
    parts = {part.name: part for part in plan(state, inherited, triton)}
    (port,) = free_ports(1)
    half = str(max(1, (os.cpu_count() or 1) // 2))
    for name, at in (("denoiser", parts["denoiser"].port), (SECOND, port)):
        settings = {"GRPC_PORT": str(at), "METRICS_PORT": str(metrics[name]), "TORCH_THREADS": half}
        environment = {**parts["denoiser"].environment, **{f"SOUNDSTAGE_DENOISER_{k}": v for k, v in settings.items()}}
        parts[name] = replace(parts["denoiser"], name=name, port=at, environment=environment)
    both = f"ipv4:127.0.0.1:{parts['denoiser'].port},127.0.0.1:{port}"
    gateway = parts.pop("gateway")
    settings = {"SOUNDSTAGE_GATEWAY_DENOISER_ADDRESS": both, "SOUNDSTAGE_GATEWAY_MAX_CONCURRENT_STAGES": str(VIDEOS)}
    parts["gateway"] = replace(gateway, environment={**gateway.environment, **settings})
    return list(parts.values())


def _measure(state: State, client: SoundstageClient, metrics: Mapping[str, int], steps: int, folder: Path) -> Results:
    alone = _order(client, steps)
    whole = _frames(client, client.wait(alone, timeout_seconds=DEADLINE_SECONDS), folder)
    before = sum(_steps(port) for port in metrics.values())
    videos = [_order(client, steps) for _ in range(VIDEOS)]
    counts = [_Steps(port) for port in metrics.values()]
    busiest = _busiest(metrics, before)
    at_work = int(_value(metrics[busiest], "soundstage_denoiser_active_videos"))
    os.kill(next(process.pid for process in state.processes() if process.name == busiest), signal.SIGTERM)
    ended = [client.wait(video, timeout_seconds=DEADLINE_SECONDS) for video in videos]
    made = sum(count.stop() for count in counts) - before
    good = [video for video in ended if video.state == pb.STATE_SUCCEEDED]
    same = sum(_frames(client, video, folder) == whole for video in good)
    repeated = made - len(good) * steps
    figures = [
        Figure("videos", len(videos), "count"),
        Figure("at_work_on_the_stopped_one", at_work, "count"),
        Figure("lost", len(videos) - len(good), "count", "0"),
        Figure("equal_to_an_undisturbed_one", same, "count", f"{len(videos)}"),
        Figure("steps_repeated.counted", repeated, "count"),
        Figure("steps_repeated.share", repeated / (len(videos) * steps), "share"),
    ]
    return Results(figures, {"steps": steps, "seconds_of_video": SECONDS, "stopped": busiest})


def _order(client: SoundstageClient, steps: int) -> pb.Video:
    return client.create(PROMPT, seed=SEED, duration=SECONDS, num_inference_steps=steps, priority="batch")


def _busiest(metrics: Mapping[str, int], before: float) -> str:
    """Once both are in the middle of videos."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        work = {name: _value(port, "soundstage_denoiser_active_videos") for name, port in metrics.items()}
        if sum(map(_steps, metrics.values())) - before > BEGUN_STEPS and min(work.values()) > 0:
            return max(work, key=lambda name: work[name])
        time.sleep(POLL_SECONDS)
    raise TimeoutError("the denoisers were never both at work")


class _Steps:
    """Steps that a process has made, read until it no longer answers; the one in which it ends is not counted."""

    def __init__(self, port: int) -> None:
        self._port, self._last, self._stopped = port, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._stopped.set()
        self._thread.join(5.0)
        return self._last

    def _watch(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            self._look()
        self._look()

    def _look(self) -> None:
        try:
            self._last = _steps(self._port)
        except OSError:
            return


def _steps(port: int) -> float:
    return _value(port, "soundstage_denoiser_step_seconds_count")


def _value(port: int, name: str) -> float:
    """Sum over the labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))


def _frames(client: SoundstageClient, video: pb.Video, folder: Path) -> str:
    """A hash of the decoded pictures: files differ in their times."""
    path = folder / "video.mp4"
    client.download(video, path)
    with av.open(str(path)) as file:
        frames: Sequence[bytes] = [frame.to_ndarray(format="rgb24").tobytes() for frame in file.decode(video=0)]
    return hashlib.sha256(b"".join(frames)).hexdigest()
