"""The encoder's work: prompts, and a first frame, to one file of conditioning tensors. Knows no gRPC."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from libs.artifacts import AttemptPrefix, Ref, Store, put_tensors
from libs.catalog import Catalog, ModelCard
from libs.errors import FieldViolation, InvalidRequest
from libs.families import PipelineCache
from libs.serving import Stage, span
from services.encoder.metrics import EncoderMetrics
from services.encoder.picture import ImageLimits, read_image

if TYPE_CHECKING:
    from libs.families.pipelines import EncodePipeline

__all__ = ["EncodeJob", "Encoded", "Encoder"]

_TOTAL_STEPS = 3


@dataclass(frozen=True)
class EncodeJob:
    """One request. Width and height in pixels; ``image`` is a PNG or JPEG artifact, None for text-to-video."""

    prefix: AttemptPrefix
    model: str
    prompt: str
    negative_prompt: str
    image: Ref | None
    width: int
    height: int
    num_frames: int


@dataclass(frozen=True)
class Encoded:
    conditioning: Ref
    load_seconds: float
    gpu_seconds: float


class Encoder:
    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        pipelines: PipelineCache[EncodePipeline],
        metrics: EncoderMetrics,
        image_limits: ImageLimits,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._pipelines = pipelines
        self._metrics = metrics
        self._image_limits = image_limits

    def warm(self, models: Iterable[str]) -> None:
        """Load models before the first request."""
        for name in models:
            self._load(self._catalog.get(name))

    def encode(self, job: EncodeJob, stage: Stage) -> Encoded:
        """Write `conditioning.safetensors`. Raises NotFound, InvalidRequest, and what the store raises."""
        card = self._catalog.get(job.model)
        _check(job, card)
        image = self._read(job.image)
        stage.progress(1, _TOTAL_STEPS)
        pipeline, load_seconds = self._load(card)
        stage.progress(2, _TOTAL_STEPS)
        began = time.perf_counter()
        with span("encode", model=card.name, with_image=image is not None):
            tensors = pipeline(job.prompt, job.negative_prompt, image, job.width, job.height, job.num_frames)
        gpu_seconds = time.perf_counter() - began
        self._metrics.encoded(card.name, gpu_seconds, with_image=image is not None)
        stage.raise_if_cancelled()
        conditioning = put_tensors(self._store, job.prefix.key("conditioning.safetensors"), tensors)
        stage.progress(_TOTAL_STEPS, _TOTAL_STEPS)
        return Encoded(conditioning, load_seconds, gpu_seconds)

    def _read(self, image: Ref | None) -> NDArray[np.uint8] | None:
        if image is None:
            return None
        if image.size_bytes > self._image_limits.max_bytes:
            raise InvalidRequest(
                FieldViolation("image", f"has {image.size_bytes} bytes: send at most {self._image_limits.max_bytes}"),
                reason="IMAGE_TOO_LARGE",
            )
        return read_image(self._store.get(image), image.media_type, self._image_limits)

    def _load(self, card: ModelCard) -> tuple[EncodePipeline, float]:
        with span("load", model=card.name):
            pipeline, seconds = self._pipelines.get(card)
        if seconds > 0:
            self._metrics.loaded(card.name, seconds)
        return pipeline, seconds


def _check(job: EncodeJob, card: ModelCard) -> None:
    """What the model itself does not allow."""
    violations = []
    if (job.width, job.height) not in card.limits.sizes:
        sizes = ", ".join(f"{width}x{height}" for width, height in card.limits.sizes)
        what = f"{job.width}x{job.height} is not a size of model {card.name}: use {sizes}"
        violations.append(FieldViolation("width", what))
    if job.image is not None and not card.image_to_video:
        violations.append(FieldViolation("image", f"model {card.name} takes no first frame: leave it out"))
    if job.image is None and card.image_required:
        violations.append(FieldViolation("image", f"model {card.name} makes nothing without a first frame: give one"))
    if violations:
        raise InvalidRequest(*violations, reason="OUTSIDE_MODEL_LIMITS", model=card.name)
