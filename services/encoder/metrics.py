"""Every instrument this service emits, beside those all servers have (calls, errors, latency)."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["EncoderMetrics"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class EncoderMetrics:
    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._encode_seconds = Histogram(
            "soundstage_encoder_encode_seconds",
            "Running the encoder blocks on one request, model load apart.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._images = Counter(
            "soundstage_encoder_images_total", "First frames that were encoded.", ["model"], registry=registry
        )
        self._load_seconds = Gauge(
            "soundstage_encoder_model_load_seconds", "Loading the model's encoders.", ["model"], registry=registry
        )

        self._embed_seconds = Histogram(
            "soundstage_encoder_embed_seconds",
            "Embedding the texts of one request.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._texts = Counter("soundstage_encoder_embedded_texts_total", "Texts that were embedded.", registry=registry)

    def embedded(self, texts: int, seconds: float) -> None:
        self._embed_seconds.observe(seconds)
        self._texts.inc(texts)

    def encoded(self, model: str, seconds: float, *, with_image: bool) -> None:
        self._encode_seconds.labels(model).observe(seconds)
        self._images.labels(model).inc(int(with_image))

    def loaded(self, model: str, seconds: float) -> None:
        self._load_seconds.labels(model).set(seconds)
