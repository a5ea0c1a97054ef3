"""From what was asked to what is made: defaults filled in, the model's limits checked; every violation is named."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import datetime
from typing import TypeVar

from libs.catalog import Catalog, ModelCard
from libs.errors import FieldViolation, InvalidRequest, NotFound
from services.gateway.video import Lora, Preset, Spec, VideoRequest

Number = TypeVar("Number", int, float)

MAX_SEED = 2**53 - 1
TOLERANCE = 1e-6
"""Seconds: lengths that come as sums of floating-point numbers are not refused for their last digit."""


def request_hash(request: VideoRequest) -> str:
    """SHA-256 over everything the caller chose, apart from the request id; image and LoRA count by their own SHA-256.

    What came to be after the first version counts only where it is chosen: a repeat may reach a newer version.
    """
    fields = asdict(replace(request, lora=None))
    del fields["request_id"], fields["lora"]
    if request.lora is not None:
        fields["lora"] = [request.lora.sha256, request.lora.scale]
    if not request.preview_sound:
        del fields["preview_sound"]
    fields["image"] = hashlib.sha256(request.image).hexdigest() if request.image else ""
    fields["deadline"] = request.deadline.isoformat() if request.deadline else None
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def find_model(catalog: Catalog, name: str, default_model: str, field: str) -> ModelCard:
    """An empty name means the default model. Raises InvalidRequest on `field`, listing the known models."""
    try:
        return catalog.get(name or default_model)
    except NotFound as error:
        known = ", ".join(catalog.names())
        violation = FieldViolation(field, f"there is no model {name!r}; known models: {known}")
        raise InvalidRequest(violation, reason="MODEL_UNKNOWN", known_models=known) from error


def resolve(
    request: VideoRequest,
    card: ModelCard,
    now: datetime,
    draw_seed: Callable[[], int] = lambda: secrets.randbelow(MAX_SEED + 1),
) -> Spec:
    """Raises InvalidRequest with one violation for every field that must change.

    A LoRA that came as a file is not in the spec until it lies in the store.
    """
    violations = list(_violations(request, card, now))
    if violations:
        raise InvalidRequest(*violations)
    defaults = card.defaults
    fps = request.fps or defaults.fps
    num_frames = max(1, round((request.duration_seconds or defaults.duration_seconds) * fps))
    fast = request.preset is Preset.FAST
    preset_steps = defaults.fast_num_inference_steps if fast else defaults.num_inference_steps
    return Spec(
        model=card.name,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        duration_seconds=num_frames / fps,
        num_frames=num_frames,
        width=request.width or defaults.width,
        height=request.height or defaults.height,
        fps=fps,
        num_inference_steps=request.num_inference_steps or preset_steps,
        guidance_scale=_or(request.guidance_scale, defaults.guidance_scale),
        seed=draw_seed() if request.seed is None else request.seed,
        preset=request.preset,
        audio_intent=request.audio_intent,
        joint_audio=card.joint_audio,
        lora=Lora(request.lora.artifact, request.lora.scale) if request.lora and request.lora.artifact else None,
        preview_sound=request.preview_sound,
    )


def _violations(request: VideoRequest, card: ModelCard, now: datetime) -> Iterator[FieldViolation]:
    yield from _prompt(request)
    yield from _duration(request, card)
    yield from _size(request, card)
    yield from _rate_and_steps(request, card)
    if request.image and not card.image_to_video:
        yield FieldViolation("spec.image", f"model {card.name} makes videos from text only; leave the image out")
    if not request.image and card.image_required:
        yield FieldViolation("spec.image", f"model {card.name} makes videos of a first frame only; give one")
    if request.deadline is not None and request.deadline <= now:
        yield FieldViolation("deadline", "it has passed; give a time in the future, or leave it out")


def _prompt(request: VideoRequest) -> Iterator[FieldViolation]:
    if not request.prompt.strip():
        yield FieldViolation("spec.prompt", "write what the video should show; it is empty")


def _duration(request: VideoRequest, card: ModelCard) -> Iterator[FieldViolation]:
    seconds, limits = request.duration_seconds, card.limits
    if seconds is None or limits.min_duration_seconds - TOLERANCE <= seconds <= limits.max_duration_seconds + TOLERANCE:
        return
    least, most = limits.min_duration_seconds, limits.max_duration_seconds
    yield FieldViolation(
        "spec.duration", f"{seconds:g} s is not possible: model {card.name} makes {least:g} to {most:g} s"
    )


def _size(request: VideoRequest, card: ModelCard) -> Iterator[FieldViolation]:
    """Width and height belong together: with one left out, the other takes its default."""
    sizes = card.limits.sizes
    width = _or(request.width, card.defaults.width)
    height = _or(request.height, card.defaults.height)
    if (width, height) in sizes:
        return
    known = ", ".join(f"{w}x{h}" for w, h in sizes)
    asked = f"{width}x{height} is not possible: model {card.name} makes {known}"
    blame_width = width not in {w for w, _ in sizes}
    blame_height = height not in {h for w, h in sizes if blame_width or w == width}
    if blame_width:
        yield FieldViolation("spec.width", asked)
    if blame_height:
        yield FieldViolation("spec.height", asked)


def _rate_and_steps(request: VideoRequest, card: ModelCard) -> Iterator[FieldViolation]:
    limits = card.limits
    if request.fps is not None and request.fps not in limits.fps:
        known = ", ".join(f"{fps:g}" for fps in limits.fps)
        yield FieldViolation("spec.fps", f"{request.fps:g} is not possible: model {card.name} makes {known}")
    steps = request.num_inference_steps
    if steps is not None and not 1 <= steps <= limits.max_num_inference_steps:
        most = limits.max_num_inference_steps
        yield FieldViolation(
            "spec.num_inference_steps", f"{steps} is not possible: model {card.name} takes 1 to {most}"
        )


def _or(value: Number | None, default: Number) -> Number:
    return default if value is None else value
