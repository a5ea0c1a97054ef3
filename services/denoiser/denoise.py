"""The denoiser's work: conditioning to latents, telling of every step. Knows no gRPC."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from libs.artifacts import AttemptPrefix, Ref, Store, get_tensors, put_tensors
from libs.catalog import Catalog, ModelCard
from libs.errors import FieldViolation, InvalidRequest, ResourceExhausted
from libs.families import PipelineCache, Step
from libs.serving import Stage
from libs.triton import Call, calling
from services.denoiser.limits import check_limits
from services.denoiser.metrics import DenoiserMetrics
from services.denoiser.preview import to_jpeg
from services.denoiser.turns import Turn, Turns

if TYPE_CHECKING:
    from libs.families.pipelines import DenoisePipeline

__all__ = ["DenoiseJob", "Denoised", "Denoiser", "Preview", "StepDone"]


@dataclass(frozen=True)
class DenoiseJob:
    """One request. Sizes in pixels, fps in frames a second."""

    prefix: AttemptPrefix
    model: str
    conditioning: Ref
    width: int
    height: int
    num_frames: int
    fps: float
    num_inference_steps: int
    guidance_scale: float
    seed: int
    preview_every_steps: int
    checkpoint: Ref | None = None


@dataclass(frozen=True)
class StepDone:
    """Step ``step`` of ``total_steps`` took ``seconds``; step 0: the work has begun."""

    step: int
    total_steps: int
    seconds: float


@dataclass(frozen=True)
class Preview:
    step: int
    jpeg: bytes


@dataclass(frozen=True)
class Denoised:
    latents: Ref
    load_seconds: float


class Denoiser:
    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        pipelines: PipelineCache[DenoisePipeline],
        metrics: DenoiserMetrics,
        max_active_videos: int,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._pipelines = pipelines
        self._metrics = metrics
        self._max_active_videos = max_active_videos
        self._turns = Turns()
        self._lock = threading.Lock()
        self._active = 0

    def warm(self, models: Iterable[str]) -> None:
        """Load models before the first request."""
        for name in models:
            self._load(self._catalog.get(name))

    def denoise(self, job: DenoiseJob, stage: Stage) -> Denoised:
        """Write `latents.safetensors`.

        Raises NotFound, InvalidRequest, FailedPrecondition (the conditioning is missing, altered or does not fit),
        ResourceExhausted, and what the store raises.
        """
        card = self._catalog.get(job.model)
        check_limits(job, card)
        _refuse_checkpoint(job)
        with self._place():
            conditioning = get_tensors(self._store, job.conditioning)
            pipeline, load_seconds = self._load(card)
            stage.emit(StepDone(0, job.num_inference_steps, 0.0))
            began = time.perf_counter()
            with Turn(self._turns, stage.raise_if_cancelled) as turn, calling(Call(stage.raise_if_cancelled)):
                tensors = pipeline(
                    conditioning,
                    width=job.width,
                    height=job.height,
                    num_frames=job.num_frames,
                    fps=job.fps,
                    num_inference_steps=job.num_inference_steps,
                    guidance_scale=job.guidance_scale,
                    seed=job.seed,
                    preview_every_steps=job.preview_every_steps,
                    on_step=lambda step: self._between_steps(step, job, stage, turn),
                )
            self._metrics.denoised(card.name, time.perf_counter() - began)
            latents = put_tensors(self._store, job.prefix.key("latents.safetensors"), tensors)
        return Denoised(latents, load_seconds)

    def _between_steps(self, step: Step, job: DenoiseJob, stage: Stage, turn: Turn) -> None:
        """Others step while this video's events go out: a slow reader delays nobody else's video."""
        turn.give()
        self._metrics.stepped(job.model, step.seconds)
        stage.emit(StepDone(step.index, step.total, step.seconds))
        if step.preview is not None:
            stage.emit(Preview(step.index, to_jpeg(step.preview)))
        stage.raise_if_cancelled()
        if step.index < step.total:
            turn.take()

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places for active videos."""
        with self._lock:
            if self._active >= self._max_active_videos:
                raise ResourceExhausted(
                    f"{self._active} videos are at work, the most this server takes: try again when one has ended",
                    reason="TOO_MANY_ACTIVE_VIDEOS",
                    max_active_videos=str(self._max_active_videos),
                )
            self._set_active(self._active + 1)
        try:
            yield
        finally:
            with self._lock:
                self._set_active(self._active - 1)

    def _set_active(self, count: int) -> None:
        self._active = count
        self._metrics.active(count)

    def _load(self, card: ModelCard) -> tuple[DenoisePipeline, float]:
        pipeline, seconds = self._pipelines.get(card)
        if seconds > 0:
            self._metrics.loaded(card.name, seconds)
        return pipeline, seconds


def _refuse_checkpoint(job: DenoiseJob) -> None:
    if job.checkpoint is not None:
        what = (
            "this version neither writes nor reads checkpoints: leave it out, the same request gives the same latents"
        )
        raise InvalidRequest(FieldViolation("checkpoint", what), reason="CHECKPOINTS_UNSUPPORTED")
