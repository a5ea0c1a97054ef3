"""Seconds of work per stage for the default 5 s video through the public API, and the memory of each process.

Then the preset `fast` and `standard` in turn, in the same run: how many times less work the one is, by medians.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from google.protobuf.duration_pb2 import Duration
from soundstage.video.v1 import video_pb2 as pb

from bench.options import Options
from bench.results import Figure, Results
from bench.stack import MemoryWatch, local_stack
from client import SoundstageClient

PROMPT = "a campfire on a beach at night, waves in the background"
AIM_SECONDS = 60.0
AIM_FAST = 3.0
WAIT_SECONDS = 1800.0


def run(options: Options) -> Results:
    """The first video of a stack: each stage loads its model, which is timed apart from its work. Then pairs."""
    began = time.perf_counter()
    with local_stack(warm=False) as state:
        started = time.perf_counter() - began
        with MemoryWatch(state.processes()) as memory, SoundstageClient(state.address) as client:
            video = _make(client, options, num_inference_steps=options.steps)
            pairs = [
                (
                    _work_seconds(_make(client, options, preset="fast")),
                    _work_seconds(_make(client, options, num_inference_steps=options.steps)),
                )
                for _ in range(options.rounds)
            ]
    fast, again = (median(seconds) for seconds in zip(*pairs, strict=True))
    figures = [
        Figure("start_seconds", started, "s"),
        *_stage_figures(video),
        Figure("standard.all_stages.work", again, "s"),
        Figure("fast.all_stages.work", fast, "s"),
        Figure("standard_over_fast", again / fast, "ratio", f"≥ {AIM_FAST:g}"),
    ]
    peaks = [Figure(f"peak_memory.{name}", mib, "MiB") for name, mib in memory.peaks_mib.items()]
    spec = video.spec
    details = {
        "prompt": spec.prompt,
        "duration_seconds": _seconds(spec.duration),
        "size": [spec.width, spec.height],
        "fps": spec.fps,
        "num_inference_steps": spec.num_inference_steps,
    }
    return Results([*figures, *peaks], details)


def _make(client: SoundstageClient, options: Options, **how: Any) -> pb.Video:  # noqa: ANN401  # of `create`
    video = client.create(PROMPT, seed=options.seed, duration=options.duration, **how)
    video = client.wait(video, timeout_seconds=WAIT_SECONDS)
    if video.state != pb.STATE_SUCCEEDED:
        raise RuntimeError(f"the video did not succeed: {video.error.reason} {video.error.message}")
    return video


def _stage_figures(video: pb.Video) -> list[Figure]:
    """Work and load of each stage, their sums, and the time from asking to having."""
    figures, work, load = [], 0.0, 0.0
    for timing in video.stage_timings:
        name = pb.Stage.Name(timing.stage).removeprefix("STAGE_").lower()
        loading = _seconds(timing.load_duration)
        working = _seconds(timing.duration) - loading
        figures += [Figure(f"{name}.work", working, "s"), Figure(f"{name}.load", loading, "s")]
        work, load = work + working, load + loading
    elapsed = (video.end_time.ToNanoseconds() - video.create_time.ToNanoseconds()) / 1e9
    return [
        *figures,
        Figure("all_stages.work", work, "s", f"≤ {AIM_SECONDS:g}"),
        Figure("all_stages.load", load, "s"),
        Figure("asked_to_ready", elapsed, "s"),
    ]


def _work_seconds(video: pb.Video) -> float:
    """Of all stages, without loading."""
    return sum(_seconds(timing.duration) - _seconds(timing.load_duration) for timing in video.stage_timings)


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9
