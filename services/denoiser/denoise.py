"""The denoiser's work: conditioning to latents, telling of every step. Knows no gRPC."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from libs.artifacts import AttemptPrefix, Ref, Store, get_tensors, put_tensors
from libs.catalog import Catalog, ModelCard
from libs.families import LoopState, PipelineCache, Step, steps_done
from libs.serving import Stage, event, span
from libs.triton import Call, calling
from services.denoiser.checkpoints import Checkpoints, Keeper, Written
from services.denoiser.fingerprint import fingerprint_of
from services.denoiser.limits import check_limits
from services.denoiser.line import Line, Place, Urgency
from services.denoiser.loras import Lora, Loras
from services.denoiser.merging import steps_that_pay
from services.denoiser.metrics import DenoiserMetrics
from services.denoiser.preview import to_jpeg
from services.denoiser.sounds import SoundPreviews

if TYPE_CHECKING:
    from libs.families.pipelines import DenoisePipeline

__all__ = ["Capacity", "DenoiseJob", "Denoised", "Denoiser", "Preview", "Queued", "StepDone"]


@dataclass(frozen=True)
class DenoiseJob:
    """One request. Sizes in pixels, fps in frames a second, ``deadline`` in seconds since the epoch or infinite."""

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
    priority: int
    deadline: float
    checkpoint: Ref | None = None
    lora: Lora | None = None
    preview_sound: bool = False


@dataclass(frozen=True)
class StepDone:
    """Step ``step`` of ``total_steps`` took ``seconds``; 0 seconds: the work begins, with so many steps done before."""

    step: int
    total_steps: int
    seconds: float


@dataclass(frozen=True)
class Preview:
    """``jpeg`` is empty where the picture cannot be drawn, ``sound`` None where no WAV was due or asked for."""

    step: int
    jpeg: bytes
    sound: Ref | None = None


@dataclass(frozen=True)
class Queued:
    """Videos that come before this one."""

    before: int


@dataclass(frozen=True)
class Denoised:
    latents: Ref
    load_seconds: float
    gpu_seconds: float
    """Of this attempt's steps."""


@dataclass(frozen=True)
class Capacity:
    """How many videos are at work, wait, and step at the same time; 0 steps: as many as `merging` finds to pay."""

    active: int
    waiting: int
    steps_at_once: int


class Denoiser:
    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        pipelines: PipelineCache[DenoisePipeline],
        metrics: DenoiserMetrics,
        checkpoints: Checkpoints,
        loras: Loras,
        capacity: Capacity,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._pipelines = pipelines
        self._metrics = metrics
        self._checkpoints = checkpoints
        self._loras = loras
        self._capacity = capacity
        self._sounds = SoundPreviews(store)
        self._places, self._turns = Line(capacity.active, capacity.waiting), Line(max(1, capacity.steps_at_once))
        metrics.steps_at_once(max(1, capacity.steps_at_once))

    def warm(self, models: Iterable[str]) -> None:
        """Load models before the first request, and see how many steps at once pay, unless that is given."""
        cards = [self._catalog.get(name) for name in models]
        loaded = [(card, self._load(card)[0]) for card in cards]
        if loaded and not self._capacity.steps_at_once:
            steps = steps_that_pay(loaded, self._capacity.active, self._metrics)
            self._turns.grow(steps - 1)
            self._metrics.steps_at_once(steps)

    def denoise(self, job: DenoiseJob, stage: Stage) -> Denoised:
        """Write `latents.safetensors`, going on from the newest checkpoint of an earlier attempt.

        Raises NotFound, InvalidRequest, FailedPrecondition (the conditioning, the LoRA or the given checkpoint is
        missing, altered or does not fit), ResourceExhausted, and what the store raises.
        """
        card = self._catalog.get(job.model)
        check_limits(job, card)
        urgency = Urgency(job.priority, job.deadline)
        with (
            Place(self._places, urgency, stage.raise_if_cancelled, lambda before: _queued(before, stage)) as place,
            self._metrics.at_work(),
            calling(Call(stage.raise_if_cancelled, job.priority)),
            self._pipeline(card, job, stage) as (pipeline, load_seconds),
        ):
            conditioning = get_tensors(self._store, job.conditioning)
            fingerprint = fingerprint_of(job, card.path, pipeline.cache_threshold)
            resume, keeper = self._resume(job, fingerprint), self._checkpoints.keeper(job, fingerprint)
            done_before = steps_done(resume) if resume else 0
            stage.emit(StepDone(done_before, job.num_inference_steps, 0.0))
            began, ran = time.perf_counter(), list[float]()

            def on_step(step: Step) -> None:
                ran.append(step.seconds)
                self._between_steps(step, job, stage, place, turn, keeper)

            with (
                span("denoise", model=card.name, steps=job.num_inference_steps, steps_before=done_before),
                Place(self._turns, urgency, stage.raise_if_cancelled, _waits_for_its_turn) as turn,
                keeper.at_work(),
            ):
                if resume:
                    event("resumed", step=done_before)
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
                    on_step=on_step,
                    resume=resume,
                )
            self._metrics.denoised(card.name, time.perf_counter() - began)
            latents = put_tensors(self._store, job.prefix.key("latents.safetensors"), tensors)
            keeper.clear()
        return Denoised(latents, load_seconds, sum(ran))

    def _between_steps(
        self, step: Step, job: DenoiseJob, stage: Stage, place: Place, turn: Place, keeper: Keeper
    ) -> None:
        """Others step while this video's events go out: a slow reader delays nobody else's video for long."""
        written = keeper.after(step)
        turn.give()
        self._metrics.stepped(job.model, step.seconds, cached=step.cached)
        event("step", step=step.index, seconds=step.seconds)
        stage.emit(StepDone(step.index, step.total, step.seconds))
        _tell(written, stage)
        self._preview(step, job, stage)
        stage.raise_if_cancelled()
        if step.index < step.total:
            self._wait(step, job, stage, place, turn, keeper)

    def _wait(self, step: Step, job: DenoiseJob, stage: Stage, place: Place, turn: Place, keeper: Keeper) -> None:
        """For the next turn; before that for a place again, where less urgent videos had taken all there are."""

        def meanwhile() -> None:
            _tell(keeper.while_waiting(step), stage)

        # One with a LoRA keeps its place: who took it could be waiting for the memory of that very LoRA.
        if job.lora is None:
            place.give_way(meanwhile)
        turn.take(meanwhile)

    def _preview(self, step: Step, job: DenoiseJob, stage: Stage) -> None:
        jpeg = b"" if step.preview is None else to_jpeg(step.preview)
        sound = None
        if job.preview_sound:
            seconds = job.num_frames / job.fps
            sound = self._sounds.put(step, job.preview_every_steps, self._catalog.get(job.model), job.prefix, seconds)
        if jpeg or sound is not None:
            stage.emit(Preview(step.index, jpeg, sound))

    def _resume(self, job: DenoiseJob, fingerprint: str) -> LoopState | None:
        if job.checkpoint is None:
            return self._checkpoints.newest(job, fingerprint)
        return self._checkpoints.given(job.checkpoint, fingerprint)

    @contextmanager
    def _pipeline(self, card: ModelCard, job: DenoiseJob, stage: Stage) -> Iterator[tuple[DenoisePipeline, float]]:
        """With the job's LoRA in its weights, and the seconds that loading took."""
        base, seconds = self._load(card)
        with self._loras.on(card, base, job.lora, stage.raise_if_cancelled) as (pipeline, more_seconds):
            yield pipeline, seconds + more_seconds

    def _load(self, card: ModelCard) -> tuple[DenoisePipeline, float]:
        with span("load", model=card.name):
            pipeline, seconds = self._pipelines.get(card)
        if seconds > 0:
            self._metrics.loaded(card.name, seconds)
        return pipeline, seconds


def _tell(written: Written | None, stage: Stage) -> None:
    if written is not None:
        event("checkpoint", step=written.step)
        stage.emit(written)


def _queued(before: int, stage: Stage) -> None:
    event("queued", before=before)
    stage.emit(Queued(before))


def _waits_for_its_turn(before: int) -> None:
    """Others step first: before its first step, or as it yields to a more urgent video."""
    event("preempted", before=before)
