"""Every instrument this service emits, beside those all servers have (calls, errors, latency)."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram

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

    def stepped(self, model: str, seconds: float) -> None:
        self._step_seconds.labels(model).observe(seconds)

    def denoised(self, model: str, seconds: float) -> None:
        self._video_seconds.labels(model).observe(seconds)

    def active(self, count: int) -> None:
        self._active.set(count)

    def loaded(self, model: str, seconds: float) -> None:
        self._load_seconds.labels(model).set(seconds)
