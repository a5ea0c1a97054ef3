"""What a video is, inside the gateway: plain values, without gRPC, database or Temporal.

A video's *request* is what the caller asked for, its *spec* is that with every default resolved, and its *status* is
everything that changes while it is made. `status_to_json` and `spec_to_json` give what the database keeps.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from libs.artifacts import Ref


class State(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Stage(StrEnum):
    """The five stages, in the order in which they run."""

    ENCODE = "encode"
    DENOISE = "denoise"
    RENDER = "render"
    SYNTHESIZE = "synthesize"
    MUX = "mux"


class Priority(StrEnum):
    INTERACTIVE = "INTERACTIVE"
    STANDARD = "STANDARD"
    BATCH = "BATCH"


class Preset(StrEnum):
    FAST = "FAST"
    STANDARD = "STANDARD"


class AudioIntent(StrEnum):
    FULL = "FULL"
    AMBIENCE = "AMBIENCE"
    EFFECTS = "EFFECTS"
    SILENT = "SILENT"


class Collected(StrEnum):
    """Which files of a video were deleted because their time was over."""

    NOTHING = "NOTHING"
    INTERMEDIATES = "INTERMEDIATES"
    EVERYTHING = "EVERYTHING"


@dataclass(frozen=True)
class VideoKey:
    """Names one video. Every look-up goes by both parts, so that nobody reaches another tenant's."""

    tenant: str
    video_id: str


@dataclass(frozen=True)
class LoraRequest:
    """A file as it came, or one that lies in the store, which leaves `file` empty; `scale` is 0 to 2."""

    file: bytes = b""
    artifact: Ref | None = None
    scale: float = 1.0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.file).hexdigest() if self.artifact is None else self.artifact.sha256


@dataclass(frozen=True)
class VideoRequest:
    """What the caller asked for; None means left out. `image` holds the bytes as they came, empty for none."""

    prompt: str
    model: str = ""
    negative_prompt: str = ""
    image: bytes = b""
    duration_seconds: float | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    preset: Preset = Preset.STANDARD
    audio_intent: AudioIntent = AudioIntent.FULL
    preview_sound: bool = False
    request_id: str = ""
    priority: Priority = Priority.STANDARD
    deadline: datetime | None = None
    lora: LoraRequest | None = None


class Shape(NamedTuple):
    """What the cost of making a video depends on."""

    model: str
    num_frames: int
    width: int
    height: int
    num_inference_steps: int


@dataclass(frozen=True)
class Lora:
    """A safetensors file, and how strongly it changes the model's weights, 0 to 2."""

    ref: Ref
    scale: float


@dataclass(frozen=True)
class Spec:
    """A request with every default resolved. `duration_seconds` is exactly num_frames / fps."""

    model: str
    prompt: str
    negative_prompt: str
    duration_seconds: float
    num_frames: int
    width: int
    height: int
    fps: float
    num_inference_steps: int
    guidance_scale: float
    seed: int
    preset: Preset
    audio_intent: AudioIntent
    joint_audio: bool = False
    lora: Lora | None = None
    preview_sound: bool = False

    @property
    def shape(self) -> Shape:
        return Shape(self.model, self.num_frames, self.width, self.height, self.num_inference_steps)


@dataclass(frozen=True)
class StageTiming:
    """One stage that has ended; times of its successful attempt."""

    stage: Stage
    start_time: datetime
    seconds: float
    load_seconds: float
    gpu_seconds: float
    attempts: int


@dataclass(frozen=True)
class VideoResult:
    video: Ref
    poster: Ref
    duration_seconds: float


@dataclass(frozen=True)
class AttemptError:
    """Why one attempt of a stage gave nothing. `number` counts from 1."""

    number: int
    reason: str
    message: str
    start_time: datetime


@dataclass(frozen=True)
class VideoError:
    """`attempts`: the stage's failed attempts, oldest first; empty when none had begun."""

    reason: str
    message: str
    stage: Stage | None = None
    attempts: tuple[AttemptError, ...] = ()


@dataclass(frozen=True)
class Status:
    """Everything that changes while a video is made. `states.advance` decides which change is allowed.

    `attempt` is the one that tells how the stage goes; what any other says of it is not written down.
    `denoise_done_before`: share of the steps that the last attempt at denoising took from a checkpoint, 0 to 1.
    """

    state: State = State.QUEUED
    stage: Stage | None = None
    step: int = 0
    total_steps: int = 0
    stage_start_time: datetime | None = None
    timings: tuple[StageTiming, ...] = ()
    result: VideoResult | None = None
    error: VideoError | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    attempt: str = ""
    attempt_number: int = 0
    denoise_done_before: float = 0.0

    def with_progress(self, step: int, total_steps: int) -> Status:
        return replace(self, step=step, total_steps=total_steps)


@dataclass(frozen=True)
class Video:
    """A video as the database has it. `expected_seconds`: measured on earlier videos; empty while nothing is known.

    `cost_millicredits`: reserved as long as the video goes on, and what was kept of it afterwards.
    """

    key: VideoKey
    spec: Spec
    image: Ref | None
    priority: Priority
    deadline: datetime | None
    request_id: str
    request_hash: str
    create_time: datetime
    expected_seconds: dict[Stage, float] = field(default_factory=dict)
    status: Status = field(default_factory=Status)
    sequence: int = 1
    collected: Collected = Collected.NOTHING
    cost_millicredits: int = 0


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """Without a LoRA no word of it, so that processes of the version before can read it."""
    data = asdict(spec)
    if spec.lora is None:
        del data["lora"]
    return data


def spec_from_json(data: dict[str, Any]) -> Spec:
    enums = {"preset": Preset(data["preset"]), "audio_intent": AudioIntent(data["audio_intent"])}
    lora = data.get("lora")
    return Spec(**{**data, **enums, "lora": lora and Lora(Ref(**lora["ref"]), lora["scale"])})


def ref_to_json(ref: Ref | None) -> dict[str, Any] | None:
    return None if ref is None else asdict(ref)


def ref_from_json(data: dict[str, Any] | None) -> Ref | None:
    return None if data is None else Ref(**data)


def status_to_json(status: Status) -> dict[str, Any]:
    """Times become ISO 8601 text; everything else is JSON already."""
    data = asdict(status)
    for name in ("stage_start_time", "start_time", "end_time"):
        data[name] = _time_to_json(data[name])
    for part in (*data["timings"], *(data["error"] or {}).get("attempts", ())):
        part["start_time"] = _time_to_json(part["start_time"])
    return data


def status_from_json(data: dict[str, Any]) -> Status:
    result, error = data["result"], data["error"]
    return Status(
        state=State(data["state"]),
        stage=_stage(data["stage"]),
        step=data["step"],
        total_steps=data["total_steps"],
        stage_start_time=_time_from_json(data["stage_start_time"]),
        timings=tuple(_timing_from_json(timing) for timing in data["timings"]),
        result=result and VideoResult(Ref(**result["video"]), Ref(**result["poster"]), result["duration_seconds"]),
        error=error and _error_from_json(error),
        start_time=_time_from_json(data["start_time"]),
        end_time=_time_from_json(data["end_time"]),
        attempt=data.get("attempt", ""),
        attempt_number=data.get("attempt_number", 0),
        denoise_done_before=data.get("denoise_done_before", 0.0),
    )


def _error_from_json(data: dict[str, Any]) -> VideoError:
    attempts = (
        AttemptError(**{**attempt, "start_time": datetime.fromisoformat(attempt["start_time"])})
        for attempt in data.get("attempts", ())
    )
    return VideoError(data["reason"], data["message"], _stage(data["stage"]), tuple(attempts))


def _timing_from_json(data: dict[str, Any]) -> StageTiming:
    start_time = datetime.fromisoformat(data["start_time"])
    return StageTiming(**{**data, "stage": Stage(data["stage"]), "start_time": start_time})


def _stage(value: str | None) -> Stage | None:
    return None if value is None else Stage(value)


def _time_to_json(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def _time_from_json(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)
