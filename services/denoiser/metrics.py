"""Every instrument this service emits, beside those all servers have (calls, errors, latency)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["DenoiserMetrics"]

_STEP_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_VIDEO_SECONDS = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 900)


class DenoiserMetrics:
    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._step_seconds = Histogram(
            "soundstage_denoiser_step_seconds",
            "One denoising step: transformer and scheduler, waiting for its turn apart.",
            ["model"],
            buckets=_STEP_SECONDS,
            registry=registry,
        )
        self._video_seconds = Histogram(
            "soundstage_denoiser_video_seconds",
            "One video from its first step to its latents, turns of other videos included.",
            ["model"],
            buckets=_VIDEO_SECONDS,
            registry=registry,
        )
        self._active = Gauge("soundstage_denoiser_active_videos", "Videos at work.", registry=registry)
        self._load_seconds = Gauge(
            "soundstage_denoiser_model_load_seconds", "Loading the model's weights.", ["model"], registry=registry
        )

        self._steps_at_once = Gauge(
            "soundstage_denoiser_steps_at_once", "Videos that step at the same time, at most.", registry=registry
        )
        self._merging_seconds = Gauge(
            "soundstage_denoiser_merging_seconds",
            "Time per video when so many transformer calls are made at once, measured at start.",
            ["model", "at_once"],
            registry=registry,
        )
        self._checkpoints = Counter(
            "soundstage_denoiser_checkpoints",
            "Checkpoints written, not written because the store failed, read by a later attempt, passed over because "
            "damaged or of another request.",
            ["outcome"],
            registry=registry,
        )
        self._checkpoint_seconds = Histogram(
            "soundstage_denoiser_checkpoint_seconds",
            "Copying and writing one checkpoint; the loop waits for the copying only.",
            buckets=_STEP_SECONDS,
            registry=registry,
        )
        self._checkpoint_ages = set[Callable[[], float]]()
        Gauge(
            "soundstage_denoiser_oldest_checkpoint_seconds",
            "Of the videos that step, the oldest of their newest checkpoints; before a first one, since it began. 0 "
            "when none steps.",
            registry=registry,
        ).set_function(lambda: max((age() for age in tuple(self._checkpoint_ages)), default=0.0))
        self._cached_steps = Counter(
            "soundstage_denoiser_cached_steps_total",
            "Steps for which the feature cache had the transformer's output.",
            ["model"],
            registry=registry,
        )

        self._loras_sent = Counter(
            "soundstage_denoiser_loras_sent_total",
            "LoRA files sent to pods of Triton that did not know them.",
            ["model"],
            registry=registry,
        )

    def checkpoint(self, outcome: Literal["written", "failed", "read", "damaged", "unfit"], seconds: float = 0) -> None:
        self._checkpoints.labels(outcome).inc()
        if outcome == "written":
            self._checkpoint_seconds.observe(seconds)

    @contextmanager
    def checkpoint_age(self, seconds: Callable[[], float]) -> Iterator[None]:
        """While a video steps. ``seconds`` is asked from another thread, whenever the figures are read."""
        self._checkpoint_ages.add(seconds)
        try:
            yield
        finally:
            self._checkpoint_ages.remove(seconds)

    def stepped(self, model: str, seconds: float, *, cached: bool) -> None:
        self._step_seconds.labels(model).observe(seconds)
        self._cached_steps.labels(model).inc(int(cached))

    def denoised(self, model: str, seconds: float) -> None:
        self._video_seconds.labels(model).observe(seconds)

    def lora_sent(self, model: str) -> None:
        self._loras_sent.labels(model).inc()

    def steps_at_once(self, steps: int) -> None:
        self._steps_at_once.set(steps)

    def merging(self, model: str, at_once: int, seconds_per_video: float) -> None:
        self._merging_seconds.labels(model, str(at_once)).set(seconds_per_video)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with self._active.track_inprogress():
            yield

    def loaded(self, model: str, seconds: float) -> None:
        self._load_seconds.labels(model).set(seconds)
