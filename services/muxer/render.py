"""Latents in, silent picture out: decodes with the model's family and streams the frames into one encoding process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.artifacts import AttemptPrefix, Ref, Store, get_tensors
from libs.catalog import Catalog
from libs.errors import FailedPrecondition
from libs.families import PipelineCache
from libs.serving import Stage, span
from libs.triton import Call, calling
from services.muxer.child import MediaChild
from services.muxer.metrics import MuxerMetrics

__all__ = ["Decode", "RenderJob", "Rendered", "Renderer"]

Decode = Callable[[Mapping[str, NDArray[Any]], int], Iterator[NDArray[np.uint8]]]
"""(latents by name, number of frames) -> chunks (t, H, W, 3) uint8, in order."""


@dataclass(frozen=True)
class RenderJob:
    prefix: AttemptPrefix
    model: str
    latents: Ref
    num_frames: int
    fps: Fraction
    priority: int
    """1 interactive, 2 standard, 3 batch."""


@dataclass(frozen=True)
class Rendered:
    picture: Ref
    load_seconds: float
    gpu_seconds: float
    """Of decoding, without encoding."""


class Renderer:
    """``threads`` is x264's; it is fixed, not taken from the machine, because the bytes of the picture depend on it."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        pipelines: PipelineCache[Decode],
        metrics: MuxerMetrics,
        *,
        threads: int,
        timeout_seconds: float,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._pipelines = pipelines
        self._metrics = metrics
        self._threads = threads
        self._timeout_seconds = timeout_seconds

    def warm(self, models: Iterable[str]) -> None:
        """Load what decodes these models, so that no call waits for it."""
        for model in models:
            self._load(model)

    def render(self, job: RenderJob, stage: Stage) -> Rendered:
        """Raises NotFound MODEL_UNKNOWN; FailedPrecondition for latents that are missing, altered or do not fit."""
        with calling(Call(stage.raise_if_cancelled, job.priority)):
            return self._render(job, stage)

    def _render(self, job: RenderJob, stage: Stage) -> Rendered:
        decode, load_seconds = self._load(job.model)
        latents = get_tensors(self._store, job.latents)
        _check_latents(latents)
        stage.raise_if_cancelled()
        with tempfile.TemporaryDirectory(prefix="soundstage-render-") as folder:
            path = Path(folder) / "picture.mp4"
            began = time.perf_counter()
            # Closed here, not by the garbage collector: a cancelled decode must let go of its memory at once.
            with closing(_chunks(decode, latents, job)) as chunks:
                decoding = _Timed(chunks)
                self._encode(_exactly(job.num_frames, decoding), path, job, stage)
            self._metrics.rendered(job.num_frames, time.perf_counter() - began)
            picture = self._store.put_file(job.prefix.key("picture.mp4"), path, "video/mp4")
        return Rendered(picture, load_seconds, decoding.seconds)

    def _load(self, model: str) -> tuple[Decode, float]:
        with span("load", model=model):
            decode, seconds = self._pipelines.get(self._catalog.get(model))
        if seconds > 0:
            self._metrics.loaded(model, seconds)
        return decode, seconds

    def _encode(self, chunks: Iterator[NDArray[np.uint8]], path: Path, job: RenderJob, stage: Stage) -> None:
        done = 0
        with ExitStack() as stack:
            child: MediaChild | None = None
            with span("decode", model=job.model, frames=job.num_frames):  # while the child encodes what it is given
                for chunk in chunks:
                    if child is None:
                        child = stack.enter_context(self._child(path, job, chunk, stage))
                    child.write(np.ascontiguousarray(chunk).data.cast("B"))
                    done += len(chunk)
                    stage.progress(done, job.num_frames)
            assert child is not None  # _exactly gives at least one chunk
            with self._metrics.gate(), span("encode"):  # the rest of it
                child.result()

    def _child(self, path: Path, job: RenderJob, first: NDArray[np.uint8], stage: Stage) -> MediaChild:
        _, height, width, _ = first.shape
        return MediaChild(
            "services.muxer.encode",
            {
                "path": str(path),
                "width": width,
                "height": height,
                "num_frames": job.num_frames,
                "fps_numerator": job.fps.numerator,
                "fps_denominator": job.fps.denominator,
                "threads": self._threads,
            },
            timeout_seconds=self._timeout_seconds,
            raise_if_cancelled=stage.raise_if_cancelled,
        )


def _check_latents(tensors: Mapping[str, NDArray[Any]]) -> None:
    """What every family hands on: "latents", one video (1, C, F, h, w) in float32, all of it finite."""
    latents = tensors.get("latents")
    if latents is None:
        raise _unfit(f"the file holds {', '.join(sorted(tensors)) or 'nothing'}, but no tensor named latents")
    if latents.ndim != 5 or len(latents) != 1 or latents.dtype != np.float32:
        raise _unfit(f"they are {latents.dtype} {latents.shape}, not float32 (1, C, F, h, w)")
    if not np.isfinite(latents).all():
        raise _unfit("some of their values are not finite")


def _chunks(decode: Decode, latents: Mapping[str, NDArray[Any]], job: RenderJob) -> Generator[NDArray[np.uint8]]:
    try:
        yield from decode(latents, job.num_frames)
    except (LookupError, ValueError) as error:
        raise _unfit(f"model {job.model!r} cannot decode them ({error})") from error


class _Timed(Iterator[NDArray[np.uint8]]):
    """``seconds``: what making the chunks so far has taken."""

    def __init__(self, chunks: Iterator[NDArray[np.uint8]]) -> None:
        self._chunks = chunks
        self.seconds = 0.0

    def __next__(self) -> NDArray[np.uint8]:
        began = time.perf_counter()
        try:
            return next(self._chunks)
        finally:
            self.seconds += time.perf_counter() - began


def _exactly(num_frames: int, chunks: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Cut ``chunks`` after ``num_frames``; raises FailedPrecondition LATENTS_UNFIT for fewer frames or an odd size."""
    done = 0
    for chunk in chunks:
        if chunk.shape[1] % 2 or chunk.shape[2] % 2:
            size = f"{chunk.shape[2]}x{chunk.shape[1]}"
            raise _unfit(f"they decode to {size} pixels, but H.264 needs an even width and height")
        kept = chunk[: num_frames - done]
        done += len(kept)
        if len(kept):
            yield kept
        if done == num_frames:
            return
    raise _unfit(f"they hold {done} frames, but num_frames is {num_frames}; ask for at most {done}")


def _unfit(what: str) -> FailedPrecondition:
    return FailedPrecondition(f"the latents do not fit: {what}", reason="LATENTS_UNFIT")
