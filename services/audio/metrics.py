"""Every instrument this service emits, beside those all servers have (calls, errors, latency)."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from services.audio.measure import CHECKS

__all__ = ["AudioMetrics"]

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class AudioMetrics:
    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._synthesize_seconds = Histogram(
            "soundstage_audio_synthesize_seconds",
            "Running the sound model on one picture, model load apart.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._load_seconds = Gauge(
            "soundstage_audio_model_load_seconds", "Loading the sound model.", ["model"], registry=registry
        )
        self._turned_down = Counter(
            "soundstage_audio_turned_down_total", "Sounds that were scaled to peak at -1 dBFS.", registry=registry
        )
        self._silent = Counter(
            "soundstage_audio_silent_total", "Sounds that are digital silence, asked for or not.", registry=registry
        )
        self._gate_failures = Counter(
            "soundstage_audio_gate_failures_total",
            "Sounds that were refused, by the check that failed.",
            ["check"],
            registry=registry,
        )
        for check in CHECKS:  # from 0 on: a series that begins with 1 has not increased, for Prometheus
            self._gate_failures.labels(check)

    def loaded(self, model: str, seconds: float) -> None:
        self._load_seconds.labels(model).set(seconds)

    def synthesized(self, model: str, seconds: float) -> None:
        self._synthesize_seconds.labels(model).observe(seconds)

    def checked(self, *, turned_down: bool, silent: bool) -> None:
        self._turned_down.inc(int(turned_down))
        self._silent.inc(int(silent))

    def refused(self, check: str) -> None:
        self._gate_failures.labels(check).inc()
