"""One video, start to end: the five stages on one page.

Workflow code is replayed, so it must be deterministic: no clock, no randomness, no input or output here. What
happens is in `activities.py`. Only references travel through Temporal; prompts stay in the gateway's database.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType, is_cancelled_exception
from temporalio.exceptions import TimeoutError as TemporalTimeoutError
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from libs.artifacts import Ref
    from services.gateway.video import Stage, VideoError, VideoKey

STAGE_TIMEOUT = timedelta(hours=6)
"""For one attempt. Generous: a stage that hangs is found by its silence, long before."""

STAGE_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=30),
    maximum_attempts=1000,
)
"""For attempts that say nothing, because their worker died. Those that fail say themselves whether and when another one
may follow (`retries.py`), and stop long before this bound."""

RECORD_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10), maximum_attempts=1000
)
RECORD_TIMEOUT = timedelta(seconds=30)

VIDEO_ENDED = "VIDEO_ENDED"
"""Reason given by an activity that finds its video cancelled, deleted or otherwise at its end."""

QUEUED = "queued"
"""Versioning: videos that were started before there was a queue go on without waiting for a place."""

LONGEST_WAIT_SECONDS = 3600.0
"""After this long without a word, the video asks again whether it may begin."""


@dataclass(frozen=True)
class VideoWork(VideoKey):
    """What a workflow is started with. A new field needs a default: running videos were started without it."""

    worker_silence_seconds: float = 20.0
    traceparent: str = ""
    """The span that asked for the video (`trace.py`)."""


@dataclass(frozen=True)
class StageInput:
    key: VideoKey
    inputs: dict[str, Ref] = field(default_factory=dict)
    traceparent: str = ""


@dataclass(frozen=True)
class StageOutput:
    refs: dict[str, Ref]


@dataclass(frozen=True)
class Conclusion:
    key: VideoKey
    error: VideoError | None = None
    traceparent: str = ""


@dataclass(frozen=True)
class PlaceInLine:
    """Whether the video may begin; if not, when to ask again at the latest, or why it never will."""

    admitted: bool = False
    ask_again_seconds: float = LONGEST_WAIT_SECONDS
    refusal: VideoError | None = None


@workflow.defn(name="MakeVideo")
class MakeVideo:
    def __init__(self) -> None:
        self._admitted = False

    @workflow.signal
    def admit(self) -> None:
        """A place is free for this video. Said more than once, it means the same."""
        self._admitted = True

    @workflow.run
    async def run(self, work: VideoWork) -> None:
        self._heartbeat_timeout = timedelta(seconds=work.worker_silence_seconds)
        self._traceparent = work.traceparent
        key = VideoKey(work.tenant, work.video_id)
        try:
            refusal = await self._wait_for_place(key) if workflow.patched(QUEUED) else None
            if refusal is None:
                await self._make(key)
        except asyncio.CancelledError:
            await self._conclude(key, None)
        except ActivityError as failure:
            error = None if is_cancelled_exception(failure) or _has_ended(failure) else _error_of(failure)
            await self._conclude(key, error)
        else:
            await self._conclude(key, refusal)

    async def _wait_for_place(self, key: VideoKey) -> VideoError | None:
        """Costs nothing while it waits: whoever hands out the places tells it (`dispatcher.py`)."""
        while not self._admitted:
            place: PlaceInLine = await workflow.execute_local_activity(
                "ask_for_place",
                key,
                result_type=PlaceInLine,
                start_to_close_timeout=RECORD_TIMEOUT,
                retry_policy=RECORD_RETRY,
            )
            if place.admitted or place.refusal:
                return place.refusal
            with suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: self._admitted, timeout=timedelta(seconds=place.ask_again_seconds)
                )
        return None

    async def _make(self, key: VideoKey) -> None:
        conditioning = (await self._stage(Stage.ENCODE, key)).refs["conditioning"]
        latents = (await self._stage(Stage.DENOISE, key, conditioning=conditioning)).refs["latents"]
        picture = (await self._stage(Stage.RENDER, key, latents=latents)).refs["picture"]
        sound = (await self._stage(Stage.SYNTHESIZE, key, picture=picture, latents=latents)).refs["sound"]
        await self._stage(Stage.MUX, key, picture=picture, sound=sound)

    async def _stage(self, stage: Stage, key: VideoKey, **inputs: Ref) -> StageOutput:
        """A cancelled video's stage is waited for: it reports back once its work has stopped."""
        output: StageOutput = await workflow.execute_activity(
            stage.value,
            StageInput(key, inputs, self._traceparent),
            result_type=StageOutput,
            start_to_close_timeout=STAGE_TIMEOUT,
            heartbeat_timeout=self._heartbeat_timeout,
            retry_policy=STAGE_RETRY,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        return output

    async def _conclude(self, key: VideoKey, error: VideoError | None) -> None:
        """Local: it must not queue behind other videos' stages."""
        await workflow.execute_local_activity(
            "conclude",
            Conclusion(key, error, self._traceparent),
            start_to_close_timeout=RECORD_TIMEOUT,
            retry_policy=RECORD_RETRY,
        )


def _has_ended(failure: ActivityError) -> bool:
    return isinstance(failure.cause, ApplicationError) and failure.cause.type == VIDEO_ENDED


def _error_of(failure: ActivityError) -> VideoError:
    stage = Stage(failure.activity_type) if failure.activity_type in set(Stage) else None
    match failure.cause:
        case ApplicationError() as error:
            return VideoError(error.type or "INTERNAL", error.message, stage)
        case TemporalTimeoutError(type=TimeoutType.HEARTBEAT):
            return VideoError("WORKER_LOST", "the processes that made this video were lost too often", stage)
        case TemporalTimeoutError():
            return VideoError("STAGE_TIMEOUT", f"{failure.activity_type} took more than {STAGE_TIMEOUT}", stage)
        case _:
            return VideoError("INTERNAL", "internal error", stage)
