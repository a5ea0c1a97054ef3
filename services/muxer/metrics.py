"""Every instrument this service emits, beside those all servers have (calls, errors, latency)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from libs.errors import Internal
from services.muxer.gate import CHECKS

__all__ = ["MuxerMetrics"]

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class MuxerMetrics:
    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._frames = Counter("soundstage_muxer_frames_total", "Frames decoded and encoded.", registry=registry)
        self._render_seconds = Histogram(
            "soundstage_muxer_render_seconds",
            "Decoding latents and encoding the picture, model load apart.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._mux_seconds = Histogram(
            "soundstage_muxer_mux_seconds",
            "Assembling and checking the delivered file.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._load_seconds = Gauge(
            "soundstage_muxer_model_load_seconds", "Loading the model's decoder.", ["model"], registry=registry
        )
        self._gate_failures = Counter(
            "soundstage_muxer_gate_failures_total",
            "Finished files that failed the gate, by the check that failed.",
            ["check"],
            registry=registry,
        )
        for check in CHECKS:  # from 0 on: a series that begins with 1 has not increased, for Prometheus
            self._gate_failures.labels(check)

    def loaded(self, model: str, seconds: float) -> None:
        self._load_seconds.labels(model).set(seconds)

    def rendered(self, num_frames: int, seconds: float) -> None:
        self._frames.inc(num_frames)
        self._render_seconds.observe(seconds)

    def muxed(self, seconds: float) -> None:
        self._mux_seconds.observe(seconds)

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Counts a file that fails the gate inside."""
        try:
            yield
        except Internal as error:
            if error.reason == "FILE_GATE_FAILED":
                self._gate_failures.labels(error.metadata["check"]).inc()
            raise
