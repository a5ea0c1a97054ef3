"""Videos, models and errors as somebody at a terminal reads them."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp
from soundstage.video.v1 import video_pb2 as pb

from client.aio import TERMINAL_STATES
from client.errors import SoundstageRpcError
from client.progress import stage_name, state_name, step_text

__all__ = [
    "OPTION_OF_FIELD",
    "describe",
    "describe_value",
    "failure_of",
    "is_too_large",
    "json_text",
    "model_text",
    "quota_text",
    "video_line",
    "video_text",
]

# What a person typed, for the field that the server names.
OPTION_OF_FIELD = {
    "spec.prompt": "PROMPT",
    "prompt": "PROMPT",
    "spec.negative_prompt": "--negative",
    "spec.image": "--image",
    "spec.duration": "--duration",
    "spec.width": "--width",
    "spec.height": "--height",
    "spec.fps": "--fps",
    "spec.num_inference_steps": "--steps",
    "spec.guidance_scale": "--guidance",
    "spec.seed": "--seed",
    "spec.lora": "--lora",
    "spec.lora.file": "--lora",
    "spec.lora.artifact": "--lora",
    "spec.lora.artifact.uri": "--lora",
    "spec.lora.artifact.sha256": "--lora-sha256",
    "spec.lora.artifact.size_bytes": "--lora-bytes",
    "spec.lora.scale": "--lora-scale",
    "lora_scale": "--lora-scale",
    "spec.model": "--model",
    "model": "--model",
    "spec.preset": "--preset",
    "spec.audio_intent": "--audio",
    "priority": "--priority",
    "request_id": "--request-id",
    "name": "VIDEO",
}


TO_DO = {"name": "give the name or the id of a video, as `soundstage list` shows it"}
"""For fields of which the server says how they are written, in a way that is not for people."""

REFUSED_CONNECTIONS = {
    "WRONG_VERSION_NUMBER": "the server at {} does not speak TLS: leave out --tls, --ca, --cert and --key",
    "CERTIFICATE_VERIFY_FAILED": "the certificate of the server at {} is not trusted here: name its authority by --ca",
    "Socket closed": "what listens at {} ended the connection: a server with TLS needs --tls or --ca, and may want "
    "--cert and --key",
}
"""By what gRPC says of a connection that did not come to be though somebody listens."""

TOO_LARGE = "message larger than max"
"""How gRPC words that it refuses a request for its size; there is no code of its own for it."""


def describe(error: SoundstageRpcError, address: str, typed: Mapping[str, str] = OPTION_OF_FIELD) -> str:
    """An error as somebody at a terminal needs it: what they typed, and what to change."""
    if error.violations:
        return "\n".join(
            f"{typed.get(v.field, v.field)}: {TO_DO.get(v.field, v.description)}" for v in error.violations
        )
    if is_too_large(error):
        return f"the request has more bytes than this server takes, give a smaller picture or LoRA ({error.message})"
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        return f"{error.message} ({error.reason}): put your API key or token into SOUNDSTAGE_TOKEN"
    if error.code is grpc.StatusCode.UNAVAILABLE and not error.reason:
        for said, to_do in REFUSED_CONNECTIONS.items():
            if said in error.message:
                return to_do.format(address)
        return (
            f"no Soundstage server answers at {address}: start one with `make up`, or name one with --address HOST:PORT"
        )
    return f"{error.message} ({error.reason})" if error.reason else f"{error.code.name}: {error.message}"


def is_too_large(error: SoundstageRpcError) -> bool:
    return error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and not error.reason and TOO_LARGE in error.message


def describe_value(error: ValueError, typed: Mapping[str, str] = OPTION_OF_FIELD) -> str:
    """What was refused before it was sent, as ``create_request`` words it: by its field, then what is wrong."""
    field, colon, wrong = str(error).partition(": ")
    return f"{typed.get(field, typed.get(f'spec.{field}', field))}{colon}{wrong}"


def failure_of(video: pb.Video) -> str:
    """Why a video that has ended has no result."""
    if video.state == pb.STATE_CANCELLED:
        return f"{video.name} was cancelled"
    stage = pb.Stage.Name(video.error.stage).removeprefix("STAGE_").lower()
    return f"{video.name} failed in stage {stage}: {video.error.message} ({video.error.reason})"


def video_text(video: pb.Video) -> str:
    lines = [video_line(video)]
    if video.HasField("result") and video.result.deleted:
        lines.append(f"deleted; it was kept until {_minute(video.result.delete_time)}")
        lines.append(f"sha256  {video.result.sha256}, {video.result.size_bytes} bytes")
    elif video.HasField("result"):
        lines.append(f"video   {video.result.video_url}")
        lines.append(f"poster  {video.result.poster_url}")
        if video.result.HasField("delete_time"):
            lines.append(f"kept    until {_minute(video.result.delete_time)}")
        lines.append(f"sha256  {video.result.sha256}, {video.result.size_bytes} bytes")
    if video.state in (pb.STATE_FAILED, pb.STATE_CANCELLED):
        lines.append(failure_of(video))
    return "\n".join(lines)


def video_line(video: pb.Video) -> str:
    when = video.create_time.ToDatetime().isoformat(" ", "seconds")
    doing = "" if video.state in TERMINAL_STATES else f"{stage_name(video)} {step_text(video)}"
    prompt = " ".join(video.spec.prompt.split())
    return f"{video.name}  {when}  {state_name(video):<10} {doing:<28} {prompt[:60]}"


def model_text(model: pb.Model) -> str:
    limits, defaults = model.limits, model.defaults
    sizes = ", ".join(f"{size.width}x{size.height}" for size in limits.sizes)
    return (
        f"{model.name}: {model.description}\n"
        f"  {sizes} at {', '.join(f'{fps:g}' for fps in limits.fps)} frames/s, "
        f"{_seconds(limits.min_duration)} to {_seconds(limits.max_duration)} s "
        f"(default {_seconds(defaults.duration)}), "
        f"{defaults.num_inference_steps} steps (fast {defaults.fast_num_inference_steps}, "
        f"at most {limits.max_num_inference_steps}), first frame: {_first_frame(model)}"
    )


def _first_frame(model: pb.Model) -> str:
    if model.image_required:
        return "needed"
    return "yes" if model.image_to_video else "no"


def _minute(time: Timestamp) -> str:
    return f"{time.ToDatetime().isoformat(' ', 'minutes')} UTC"


def quota_text(quota: pb.GetQuotaResponse) -> str:
    lines = [
        f"tenant   {quota.tenant}",
        f"queued   {quota.queued_videos} of {quota.max_queued_videos}",
        f"running  {quota.active_videos - quota.queued_videos} of {quota.max_running_videos}",
    ]
    if quota.HasField("credits"):
        when = quota.next_credit_time.ToDatetime().isoformat(" ", "minutes")
        lines.append(f"credits  {quota.credits:g}, more from {when} UTC")
    return "\n".join(lines)


def _seconds(duration: Duration) -> str:
    return f"{duration.ToTimedelta().total_seconds():g}"


def json_text(video: pb.Video, *, indent: int | None = 2) -> str:
    return MessageToJson(video, indent=indent, preserving_proto_field_name=True)
