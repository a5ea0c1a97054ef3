"""A video's trace: `CreateVideo`, in it the video from its acceptance to its end, in it each attempt of each stage.

The span of the whole video is told of when the video has ended, by whichever worker ended it. Its id comes from the
video's, so that the attempts, made by any worker at any time, lie in it without anything being kept for that.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from libs.serving import SpanKind, child_of, finished_span, span
from services.gateway.video import Stage, Video, VideoKey

__all__ = ["attempt_span", "call_span", "video_span"]


def attempt_span(stage: Stage, key: VideoKey, traceparent: str, number: int) -> AbstractContextManager[None]:
    """One attempt of a stage, whichever worker makes it; `number` counts from 1."""
    parent = child_of(traceparent, _span_id(key))
    return span(
        f"stage {stage}",
        parent=parent,
        kind=SpanKind.CONSUMER,
        tenant=key.tenant,
        video_id=key.video_id,
        stage=stage.value,
        attempt=number,
    )


def call_span(stage: Stage, attempt: str) -> AbstractContextManager[None]:
    """The call of the stage's service, to its last event."""
    return span(f"call {stage}", kind=SpanKind.CLIENT, attempt_id=attempt)


def video_span(video: Video, traceparent: str) -> None:
    """The whole video, which has ended."""
    spec, status = video.spec, video.status
    finished_span(
        "video",
        child_of(traceparent),
        _span_id(video.key),
        (video.create_time, status.end_time or datetime.now(UTC)),
        tenant=video.key.tenant,
        video_id=video.key.video_id,
        model=spec.model,
        width=spec.width,
        height=spec.height,
        frames=spec.num_frames,
        steps=spec.num_inference_steps,
        state=status.state.value,
        queued_seconds=(
            (status.start_time or status.end_time or video.create_time) - video.create_time
        ).total_seconds(),
        **({"error": status.error.reason} if status.error else {}),
    )


def _span_id(key: VideoKey) -> int:
    """64 bits, never 0."""
    return int.from_bytes(hashlib.sha256(key.video_id.encode()).digest()[:8]) or 1
