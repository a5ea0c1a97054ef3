"""Public protobuf messages <-> the gateway's own values."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from soundstage.video.v1 import video_pb2 as pb

from libs.artifacts import ref_from_proto, ref_to_proto
from libs.catalog import ModelCard
from services.gateway.price import MILLI
from services.gateway.prompts import Analysis, Motion
from services.gateway.records import Filter, Quota
from services.gateway.video import (
    AudioIntent,
    LoraRequest,
    Preset,
    Priority,
    Spec,
    Stage,
    StageTiming,
    State,
    VideoError,
    VideoKey,
    VideoRequest,
)
from services.gateway.videos import Page, View, WatchEvent

STATE = {state: pb.State.Value(f"STATE_{state.name}") for state in State}
STAGE = {stage: pb.Stage.Value(f"STAGE_{stage.name}") for stage in Stage}
PRIORITY = {priority: pb.Priority.Value(f"PRIORITY_{priority.name}") for priority in Priority}
PRESET = {preset: pb.Preset.Value(f"PRESET_{preset.name}") for preset in Preset}
AUDIO_INTENT = {intent: pb.AudioIntent.Value(f"AUDIO_INTENT_{intent.name}") for intent in AudioIntent}
PROMPT_MOTION = {motion: pb.PromptMotion.Value(f"PROMPT_MOTION_{motion.name}") for motion in Motion}

STATE_FROM_PROTO = {number: state for state, number in STATE.items()}
PRIORITY_FROM_PROTO = {number: priority for priority, number in PRIORITY.items()}
PRESET_FROM_PROTO = {number: preset for preset, number in PRESET.items()}
AUDIO_INTENT_FROM_PROTO = {number: intent for intent, number in AUDIO_INTENT.items()}


def key_from_proto(tenant: str, name: str) -> VideoKey:
    return VideoKey(tenant, name.removeprefix("videos/"))


def request_from_proto(message: pb.CreateVideoRequest) -> VideoRequest:
    """Enums left out get their meaning here, so that "unspecified" and its meaning count as the same request."""
    spec = message.spec
    return VideoRequest(
        prompt=spec.prompt,
        model=spec.model,
        negative_prompt=spec.negative_prompt,
        image=spec.image,
        duration_seconds=_seconds(spec.duration) if spec.HasField("duration") else None,
        width=spec.width if spec.HasField("width") else None,
        height=spec.height if spec.HasField("height") else None,
        fps=spec.fps if spec.HasField("fps") else None,
        num_inference_steps=spec.num_inference_steps if spec.HasField("num_inference_steps") else None,
        guidance_scale=spec.guidance_scale if spec.HasField("guidance_scale") else None,
        seed=spec.seed if spec.HasField("seed") else None,
        preset=PRESET_FROM_PROTO.get(spec.preset, Preset.STANDARD),
        audio_intent=AUDIO_INTENT_FROM_PROTO.get(spec.audio_intent, AudioIntent.FULL),
        preview_sound=spec.preview_sound,
        request_id=message.request_id.lower(),
        priority=PRIORITY_FROM_PROTO.get(message.priority, Priority.STANDARD),
        deadline=message.deadline.ToDatetime(tzinfo=UTC) if message.HasField("deadline") else None,
        lora=lora_from_proto(spec.lora) if spec.HasField("lora") else None,
    )


def lora_from_proto(message: pb.Lora) -> LoraRequest:
    artifact = ref_from_proto(message.artifact) if message.HasField("artifact") else None
    return LoraRequest(message.file, artifact, message.scale if message.HasField("scale") else 1.0)


def filter_from_proto(message: pb.ListVideosRequest) -> Filter:
    after, before = (
        getattr(message, name).ToDatetime(tzinfo=UTC) if message.HasField(name) else None
        for name in ("created_after", "created_before")
    )
    return Filter(
        states=frozenset(STATE_FROM_PROTO[state] for state in message.states),
        models=frozenset(message.models),
        priorities=frozenset(PRIORITY_FROM_PROTO[priority] for priority in message.priorities),
        created_after=after,
        created_before=before,
    )


def video_to_proto(view: View) -> pb.Video:
    video, status = view.video, view.video.status
    message = pb.Video(
        name=f"videos/{video.key.video_id}",
        tenant=video.key.tenant,
        spec=spec_to_proto(video.spec),
        has_image=video.image is not None,
        priority=PRIORITY[video.priority],
        state=STATE[status.state],
        progress=progress_to_proto(view),
        stage_timings=[timing_to_proto(timing) for timing in status.timings],
        gpu_seconds=sum(timing.gpu_seconds for timing in status.timings),
        cost_credits=video.cost_millicredits / MILLI,
        create_time=_timestamp(video.create_time),
        sequence=video.sequence,
    )
    for name, time in (("deadline", video.deadline), ("start_time", status.start_time), ("end_time", status.end_time)):
        if time is not None:
            getattr(message, name).FromDatetime(time)
    if status.error is not None:
        message.error.CopyFrom(error_to_proto(status.error))
    if status.result is not None:
        message.result.CopyFrom(result_to_proto(view))
    return message


def spec_to_proto(spec: Spec) -> pb.VideoSpec:
    return pb.VideoSpec(
        model=spec.model,
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        duration=_duration(spec.duration_seconds),
        width=spec.width,
        height=spec.height,
        fps=spec.fps,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        seed=spec.seed,
        preset=PRESET[spec.preset],
        audio_intent=AUDIO_INTENT[spec.audio_intent],
        lora=pb.Lora(artifact=ref_to_proto(spec.lora.ref), scale=spec.lora.scale) if spec.lora else None,
        preview_sound=spec.preview_sound,
    )


def progress_to_proto(view: View) -> pb.Progress:
    status = view.video.status
    message = pb.Progress(
        stage=STAGE[status.stage] if status.stage else pb.STAGE_UNSPECIFIED,
        step=status.step,
        total_steps=status.total_steps,
        fraction=view.fraction,
        queue_position=view.queue_position,
    )
    if view.eta_seconds is not None:
        message.eta.CopyFrom(_duration(view.eta_seconds))
    return message


def timing_to_proto(timing: StageTiming) -> pb.StageTiming:
    return pb.StageTiming(
        stage=STAGE[timing.stage],
        start_time=_timestamp(timing.start_time),
        duration=_duration(timing.seconds),
        load_duration=_duration(timing.load_seconds),
        attempts=timing.attempts,
    )


def error_to_proto(error: VideoError) -> pb.VideoError:
    stage = STAGE[error.stage] if error.stage else pb.STAGE_UNSPECIFIED
    attempts = [
        pb.AttemptError(
            number=attempt.number,
            reason=attempt.reason,
            message=attempt.message,
            start_time=_timestamp(attempt.start_time),
        )
        for attempt in error.attempts
    ]
    return pb.VideoError(reason=error.reason, message=error.message, stage=stage, attempts=attempts)


def result_to_proto(view: View) -> pb.VideoResult:
    """Without URLs where the files are gone."""
    result, urls = view.video.status.result, view.urls
    if result is None:
        raise ValueError("the video has no result")
    message = pb.VideoResult(
        video_url=urls.video if urls else "",
        poster_url=urls.poster if urls else "",
        deleted=urls is None,
        size_bytes=result.video.size_bytes,
        sha256=result.video.sha256,
        duration=_duration(result.duration_seconds),
    )
    if urls and urls.expire_time is not None:
        message.expire_time.FromDatetime(urls.expire_time)
    if view.delete_time is not None:
        message.delete_time.FromDatetime(view.delete_time)
    return message


def page_to_proto(page: Page) -> pb.ListVideosResponse:
    return pb.ListVideosResponse(
        videos=[video_to_proto(view) for view in page.views], next_page_token=page.next_page_token
    )


def event_to_proto(event: WatchEvent) -> pb.WatchVideoResponse:
    return pb.WatchVideoResponse(
        sequence=event.sequence,
        time=_timestamp(event.time),
        video=video_to_proto(event.view),
        preview_jpeg=event.preview_jpeg,
        preview_sound_url=event.preview_sound_url,
    )


def analysis_to_proto(analysis: Analysis) -> pb.AnalyzePromptResponse:
    evidence = analysis.evidence
    return pb.AnalyzePromptResponse(
        score=analysis.score,
        findings=[
            pb.PromptFinding(aspect=found.aspect, positive=found.positive, message=found.message, part=found.part)
            for found in analysis.findings
        ],
        suggestions=analysis.suggestions,
        language=evidence.language,
        scenes=evidence.scenes,
        motion=PROMPT_MOTION[evidence.motion],
        audible=evidence.audible,
        too_complex=evidence.too_complex,
    )


def model_to_proto(card: ModelCard) -> pb.Model:
    defaults, limits = card.defaults, card.limits
    return pb.Model(
        name=card.name,
        family=card.family,
        description=card.description,
        image_to_video=card.image_to_video,
        image_required=card.image_required,
        joint_audio=card.joint_audio,
        defaults=pb.VideoDefaults(
            duration=_duration(defaults.duration_seconds),
            width=defaults.width,
            height=defaults.height,
            fps=defaults.fps,
            num_inference_steps=defaults.num_inference_steps,
            fast_num_inference_steps=defaults.fast_num_inference_steps,
            guidance_scale=defaults.guidance_scale,
        ),
        limits=pb.VideoLimits(
            min_duration=_duration(limits.min_duration_seconds),
            max_duration=_duration(limits.max_duration_seconds),
            sizes=[pb.Size(width=width, height=height) for width, height in limits.sizes],
            fps=limits.fps,
            max_num_inference_steps=limits.max_num_inference_steps,
        ),
    )


def checked_to_proto(view: View) -> pb.Video:
    """A video that was only checked: it has no name."""
    message = video_to_proto(view)
    message.ClearField("name")
    return message


def quota_to_proto(quota: Quota) -> pb.GetQuotaResponse:
    allowance = quota.allowance
    message = pb.GetQuotaResponse(
        tenant=quota.tenant,
        max_active_videos=allowance.max_queued_videos + allowance.max_running_videos,
        active_videos=sum(quota.active.values()),
        max_queued_videos=allowance.max_queued_videos,
        queued_videos=quota.active[State.QUEUED],
        max_running_videos=allowance.max_running_videos,
        requests_per_second=allowance.requests_per_second if math.isfinite(allowance.requests_per_second) else None,
        credits=None if quota.millicredits is None else quota.millicredits / MILLI,
    )
    if quota.next_grant is not None:
        message.next_credit_time.FromDatetime(quota.next_grant)
    return message


def _seconds(duration: Duration) -> float:
    return float(duration.seconds + duration.nanos / 1e9)


def _duration(seconds: float) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message


def _timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message
