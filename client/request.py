"""Keyword arguments to a ``CreateVideoRequest``; what is left out stays unset and takes the model's default."""

from __future__ import annotations

import math
import uuid
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Literal, TypeVar

from soundstage.artifact.v1 import artifact_pb2
from soundstage.video.v1 import video_pb2 as pb

__all__ = ["AudioName", "PresetName", "PriorityName", "create_request", "video_name"]

PresetName = Literal["fast", "standard"]
AudioName = Literal["full", "ambience", "effects", "silent"]
PriorityName = Literal["interactive", "standard", "batch"]

V = TypeVar("V")

PRESETS: dict[str, pb.Preset.ValueType] = {
    "": pb.PRESET_UNSPECIFIED,
    "fast": pb.PRESET_FAST,
    "standard": pb.PRESET_STANDARD,
}
AUDIO_INTENTS: dict[str, pb.AudioIntent.ValueType] = {
    "": pb.AUDIO_INTENT_UNSPECIFIED,
    "full": pb.AUDIO_INTENT_FULL,
    "ambience": pb.AUDIO_INTENT_AMBIENCE,
    "effects": pb.AUDIO_INTENT_EFFECTS,
    "silent": pb.AUDIO_INTENT_SILENT,
}
PRIORITIES: dict[str, pb.Priority.ValueType] = {
    "": pb.PRIORITY_UNSPECIFIED,
    "interactive": pb.PRIORITY_INTERACTIVE,
    "standard": pb.PRIORITY_STANDARD,
    "batch": pb.PRIORITY_BATCH,
}


def create_request(
    prompt: str,
    *,
    model: str = "",
    negative_prompt: str = "",
    image: bytes | str | PathLike[str] | None = None,
    duration: float | None = None,
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int | None = None,
    preset: PresetName | None = None,
    audio_intent: AudioName | None = None,
    priority: PriorityName | None = None,
    deadline: datetime | None = None,
    request_id: str | None = None,
    validate_only: bool = False,
    lora: bytes | str | PathLike[str] | artifact_pb2.Artifact | None = None,
    lora_scale: float | None = None,
) -> pb.CreateVideoRequest:
    """Raises ValueError for a name that is not in the tables above, or a number that no request can hold; OSError for
    a file that cannot be read.
    """
    for field, number in (("width", width), ("height", height), ("num_inference_steps", num_inference_steps)):
        _check_bits(field, number, 32)
    _check_bits("seed", seed, 64)
    spec = pb.VideoSpec(
        model=model,
        prompt=prompt,
        negative_prompt=negative_prompt,
        image=_bytes_of(image) if image is not None else b"",
        width=width,
        height=height,
        fps=fps,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        seed=seed,
        preset=_named(PRESETS, preset, "preset"),
        audio_intent=_named(AUDIO_INTENTS, audio_intent, "audio_intent"),
        lora=_lora(lora, lora_scale),
    )
    if duration is not None:
        _set_seconds(spec, duration)
    request = pb.CreateVideoRequest(
        spec=spec,
        # An id of our own makes the transport's retry safe even when the caller does not think of it.
        request_id=request_id or str(uuid.uuid4()),
        priority=_named(PRIORITIES, priority, "priority"),
        validate_only=validate_only,
    )
    if deadline is not None:
        request.deadline.FromDatetime(_aware(deadline))
    return request


def video_name(video: str | pb.Video) -> str:
    """``videos/{id}`` of a video, of its name or of its bare id."""
    name = video if isinstance(video, str) else video.name
    return name if name.startswith("videos/") else f"videos/{name}"


def _bytes_of(file: bytes | str | PathLike[str]) -> bytes:
    return file if isinstance(file, bytes) else Path(file).read_bytes()


def _lora(lora: bytes | str | PathLike[str] | artifact_pb2.Artifact | None, scale: float | None) -> pb.Lora | None:
    if lora is None:
        if scale is not None:
            raise ValueError("lora_scale: there is no LoRA to scale; give lora, too")
        return None
    if isinstance(lora, artifact_pb2.Artifact):
        return pb.Lora(artifact=lora, scale=scale)
    return pb.Lora(file=_bytes_of(lora), scale=scale)


def _named(table: dict[str, V], name: str | None, field: str) -> V:
    if (name or "") not in table:
        raise ValueError(f"{field}: there is no {name!r}; use one of {', '.join(filter(None, table))}")
    return table[name or ""]


def _check_bits(field: str, number: int | None, bits: int) -> None:
    most = 2 ** (bits - 1) - 1
    if number is not None and not -most - 1 <= number <= most:
        raise ValueError(f"{field}: {number} does not fit into a request; {most} is the largest number that does")


def _set_seconds(spec: pb.VideoSpec, seconds: float) -> None:
    if not math.isfinite(seconds) or abs(seconds) > 1e9:
        raise ValueError(f"duration: {seconds} is not a number of seconds")
    spec.duration.FromNanoseconds(round(seconds * 1e9))


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("deadline: give it a time zone, for example datetime.now(UTC) + timedelta(minutes=5)")
    return moment
