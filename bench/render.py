"""How memory and time of `Render` grow with a video's length: it decodes and encodes piece by piece."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from bench.options import Options
from bench.results import Figure, Results
from bench.stack import peak_memory_mib
from libs.artifacts import AttemptPrefix, FolderStore, put_tensors
from libs.catalog import Catalog
from libs.families import PipelineCache, load_decode, use_threads
from libs.serving import RecordingStage
from services.muxer.metrics import MuxerMetrics
from services.muxer.render import Renderer, RenderJob
from services.muxer.settings import MuxerSettings

FAMILY = "diorama"
SECONDS = (2, 8, 30)
FPS, CHANNELS, SIDE = 12, 16, 16
TIMEOUT_SECONDS = 600.0
LOOK_SECONDS = 0.05


def run(options: Options) -> Results:
    """Each length in a process of its own, with noise for latents: what they show does not matter."""
    rows = {}
    for seconds in SECONDS:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            rows[seconds] = process.submit(measure, options, seconds * FPS).result(TIMEOUT_SECONDS)
        print(f"  {seconds} s: {rows[seconds]}", flush=True)
    shortest, longest = rows[SECONDS[0]], rows[SECONDS[-1]]
    figures = [
        figure
        for seconds, (service, encoder, a_frame) in rows.items()
        for figure in (
            Figure(f"memory.service.{seconds}s", service, "MiB"),
            Figure(f"memory.encoder.{seconds}s", encoder, "MiB"),
            Figure(f"seconds_a_frame.{seconds}s", a_frame, "s"),
        )
    ]
    ratio = Figure(f"memory.{SECONDS[-1]}s_over_{SECONDS[0]}s", sum(longest[:2]) / sum(shortest[:2]), "ratio", "≤ 1.2")
    return Results([*figures, ratio])


def measure(options: Options, num_frames: int) -> tuple[float, float, float]:
    """Peak memory in MiB of the process that decodes and of the one that encodes, and seconds a frame."""
    use_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="soundstage-bench-") as folder:
        store, settings = FolderStore(Path(folder)), MuxerSettings()
        renderer = Renderer(
            store,
            Catalog.read(options.models),
            PipelineCache(load_decode),
            MuxerMetrics(CollectorRegistry()),
            threads=settings.encoder_threads,
            timeout_seconds=settings.media_timeout_seconds,
        )
        renderer.warm([FAMILY])
        shape = (1, CHANNELS, 1 + (num_frames + 2) // 4, SIDE, SIDE)
        noise = np.random.default_rng(options.seed).standard_normal(shape).astype(np.float32)
        latents = put_tensors(store, "bench/v/denoise/a/latents.safetensors", {"latents": noise})
        job = RenderJob(AttemptPrefix("bench", "v", "render", "a"), FAMILY, latents, num_frames, Fraction(FPS))
        began = time.perf_counter()
        with _watched_children() as peaks:
            renderer.render(job, RecordingStage())
        seconds = time.perf_counter() - began
    return peak_memory_mib(os.getpid()), max(peaks), seconds / num_frames


@contextmanager
def _watched_children() -> Iterator[list[float]]:
    """Peaks in MiB of this process's children, looked at again and again: what the system tells of ended ones counts
    what they shared with this one before they became another program."""
    peaks, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            for task in Path("/proc/self/task").iterdir():
                with suppress(OSError):
                    peaks.extend(peak_memory_mib(int(pid)) for pid in (task / "children").read_text().split())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield peaks
    ended.set()
    thread.join()
