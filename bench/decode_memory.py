"""How the memory of `Render` grows with a video's length, and whether it encodes while it decodes.

The muxer decodes piece by piece, in its own process or on a real tritonserver here, and hands each to the encoder.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from bench.options import Options
from bench.results import Figure, Results
from bench.stack import MemoryWatch, peak_memory_mib
from deploy.triton.build_python import PythonOptions, build_python
from deploy.triton.server import running_tritonserver
from libs.artifacts import AttemptPrefix, FolderStore, put_tensors
from libs.catalog import Catalog
from libs.families import PipelineCache, load_decode, load_remote_decoder, use_threads
from libs.serving import RecordingStage
from libs.triton import Triton, TritonOptions, triton_in_thread
from services.muxer.metrics import MuxerMetrics
from services.muxer.render import Decode, Renderer, RenderJob
from services.muxer.settings import MuxerSettings

FAMILY = "diorama"
SECONDS = (2, 8, 30)
FPS, CHANNELS, SIDE, PRIORITY = 12, 16, 16, 2
TIMEOUT_SECONDS = 600.0
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Rendering:
    """Peaks in MiB: of the muxer's process, of its encoder's, of tritonserver with its models' (0 without one)."""

    muxer: float
    encoder: float
    seconds: float
    first_seconds: float
    """Until the encoder had taken the first piece."""
    triton: float = 0.0

    @property
    def peak(self) -> float:
        return self.muxer + self.encoder + self.triton


@dataclass
class TimedStage(RecordingStage):
    """When the encoder had taken a piece."""

    times: list[float] = field(default_factory=list)

    def progress(self, step: int, total_steps: int) -> None:
        self.times.append(time.perf_counter())
        super().progress(step, total_steps)


def run(options: Options) -> Results:
    """Each length in a process, and on a server, of its own; noise for latents: what they show does not matter."""
    figures: list[Figure] = []
    details: dict[str, object] = {}
    for name, rendering in (("in_process", _in_process), ("triton", _on_triton)):
        rows = {}
        for seconds in SECONDS:
            rows[seconds] = rendering(options, seconds * FPS)
            print(f"  {name} {seconds} s: {rows[seconds]}", flush=True)
        figures += _figures(name, rows)
        details[name] = {f"{seconds}s": asdict(row) for seconds, row in rows.items()}
    return Results(figures, details)


def measure(options: Options, num_frames: int, address: str | None) -> Rendering:
    """In this process; ``address``: of a tritonserver that decodes."""
    use_threads(options.threads)
    settings = MuxerSettings()
    with tempfile.TemporaryDirectory(prefix="soundstage-bench-") as folder, _loader(address) as load:
        store = FolderStore(Path(folder))
        renderer = Renderer(
            store,
            Catalog.read(options.models),
            PipelineCache(load),
            MuxerMetrics(CollectorRegistry()),
            threads=settings.encoder_threads,
            timeout_seconds=settings.media_timeout_seconds,
        )
        renderer.warm([FAMILY])
        shape = (1, CHANNELS, 1 + (num_frames + 2) // 4, SIDE, SIDE)
        noise = np.random.default_rng(options.seed).standard_normal(shape).astype(np.float32)
        latents = put_tensors(store, "bench/v/denoise/a/latents.safetensors", {"latents": noise})
        job = RenderJob(
            AttemptPrefix("bench", "v", "render", "a"), FAMILY, latents, num_frames, Fraction(FPS), PRIORITY
        )
        began, stage = time.perf_counter(), TimedStage()
        with _watched_children() as peaks:
            renderer.render(job, stage)
        seconds, first = time.perf_counter() - began, stage.times[0] - began
    return Rendering(peak_memory_mib(os.getpid()), max(peaks.values()), seconds, first)


def _in_process(options: Options, num_frames: int, address: str | None = None) -> Rendering:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(measure, options, num_frames, address).result(TIMEOUT_SECONDS)


def _on_triton(options: Options, num_frames: int) -> Rendering:
    with tempfile.TemporaryDirectory(prefix="soundstage-bench-") as folder:
        repository = Path(folder) / "repository"
        build_python(options.models / FAMILY, repository, PythonOptions(threads=options.threads), ("vae_decoder",))
        with running_tritonserver(repository, Path(folder)) as server, MemoryWatch([server.process]) as watch:
            rendering = _in_process(options, num_frames, server.address)
        (triton,) = watch.peaks_mib.values()
    return Rendering(**asdict(rendering) | {"triton": triton})


@contextmanager
def _loader(address: str | None) -> Iterator[Callable[[Path, str], Decode]]:
    if address is None:
        yield load_decode
        return

    def load(model_dir: Path, family: str) -> Decode:
        return load_decode(model_dir, family, load_remote_decoder(model_dir, family, triton.infer))

    triton: Triton
    with triton_in_thread([address], TritonOptions(TIMEOUT_SECONDS)) as triton:
        yield load


def _figures(name: str, rows: dict[int, Rendering]) -> Iterator[Figure]:
    for seconds, row in rows.items():
        for part in ("muxer", "encoder", "triton"):
            if getattr(row, part):
                yield Figure(f"{name}.memory.{part}.{seconds}s", getattr(row, part), "MiB")
        yield Figure(f"{name}.seconds_a_frame.{seconds}s", row.seconds / (seconds * FPS), "s")
        yield Figure(f"{name}.first_piece_encoded.{seconds}s", row.first_seconds / row.seconds, "share")
    shortest, middle, longest = (rows[seconds].peak for seconds in SECONDS)
    yield Figure(f"{name}.memory.{SECONDS[2]}s_over_{SECONDS[0]}s", longest / shortest, "ratio")
    yield Figure(f"{name}.memory.{SECONDS[2]}s_over_{SECONDS[1]}s", longest / middle, "ratio", "≤ 1.1")


@contextmanager
def _watched_children() -> Iterator[dict[int, float]]:
    """Peaks in MiB of this process's children, by process, looked at again and again. The last look counts: an early
    one sees a child that is still a copy of this process, before it becomes another program."""
    peaks: dict[int, float] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            for task in Path("/proc/self/task").iterdir():
                with suppress(OSError):
                    for pid in map(int, (task / "children").read_text().split()):
                        peaks[pid] = peak_memory_mib(pid) or peaks.get(pid, 0.0)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()
