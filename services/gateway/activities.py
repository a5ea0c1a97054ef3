"""What the workflow's steps do: call a stage's service, pass on what it says, and write down what came out.

Every attempt of a stage has its own id, and so its own folder for artifacts. The first attempt that finishes counts: a
later one of the same stage finds its result and does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import NoReturn

from temporalio import activity
from temporalio.exceptions import ApplicationError

from libs.errors import FailedPrecondition, Internal, NotFound, ResourceExhausted, SoundstageError, Unavailable
from services.gateway import metrics, states
from services.gateway.admission import Admission, check_deadline
from services.gateway.attempts import Attempts, Output
from services.gateway.dispatcher import Dispatcher
from services.gateway.records import Records
from services.gateway.stages import Finished, Job, Previewed, Progressed, StageClient, StageEvent
from services.gateway.video import Stage, StageTiming, State, Status, Video, VideoError, VideoKey, VideoResult
from services.gateway.workflow import (
    LONGEST_WAIT_SECONDS,
    VIDEO_ENDED,
    Conclusion,
    PlaceInLine,
    StageInput,
    StageOutput,
)

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
"""Temporal tells an activity that it was cancelled when that sends a heartbeat; a silent stage must not delay it."""

PROGRESS_SECONDS = 0.2
"""Progress that follows earlier progress more closely than this is not written down, unless it is a stage's last."""

DEADLINE_MARGIN_SECONDS = 0.2
"""A video asks again when its deadline has passed, not a moment before."""

MAX_INTERNAL_ATTEMPTS = 3
"""An error that is a stage's own fault is tried again, in case it was passing; more often than this it is not."""


class VideoActivities:
    def __init__(
        self,
        records: Records,
        attempts: Attempts,
        admission: Admission,
        dispatcher: Dispatcher,
        stages: Mapping[Stage, StageClient],
        preview_every_steps: int,
    ) -> None:
        self._records, self._attempts, self._stages = records, attempts, stages
        self._admission, self._dispatcher = admission, dispatcher
        self._preview_every_steps = preview_every_steps

    @activity.defn(name="ask_for_place")
    async def ask_for_place(self, key: VideoKey) -> PlaceInLine:
        """Whether the video may begin. Hands out what is free first, so that nobody waits beside a free place."""
        await self._dispatcher.dispatch(asking=key)
        place = await self._admission.place(key)
        if place is None:
            return PlaceInLine(refusal=VideoError(VIDEO_ENDED, "the video has ended"))
        if place.admitted:
            return PlaceInLine(admitted=True)
        try:
            check_deadline(place.deadline)
        except FailedPrecondition as error:
            return PlaceInLine(refusal=VideoError(error.reason, str(error)))
        if place.deadline is None:
            return PlaceInLine()
        left = (place.deadline - datetime.now(UTC)).total_seconds() + DEADLINE_MARGIN_SECONDS
        return PlaceInLine(ask_again_seconds=min(left, LONGEST_WAIT_SECONDS))

    @activity.defn(name=Stage.ENCODE.value)
    async def encode(self, given: StageInput) -> StageOutput:
        return await self._stage(Stage.ENCODE, given)

    @activity.defn(name=Stage.DENOISE.value)
    async def denoise(self, given: StageInput) -> StageOutput:
        return await self._stage(Stage.DENOISE, given)

    @activity.defn(name=Stage.RENDER.value)
    async def render(self, given: StageInput) -> StageOutput:
        return await self._stage(Stage.RENDER, given)

    @activity.defn(name=Stage.SYNTHESIZE.value)
    async def synthesize(self, given: StageInput) -> StageOutput:
        return await self._stage(Stage.SYNTHESIZE, given)

    @activity.defn(name=Stage.MUX.value)
    async def mux(self, given: StageInput) -> StageOutput:
        return await self._stage(Stage.MUX, given)

    @activity.defn(name="conclude")
    async def conclude(self, conclusion: Conclusion) -> None:
        """Brings the video to its terminal state. A video that already is in one, or was deleted, stays as it is."""
        muxed = await self._attempts.winner(conclusion.key, Stage.MUX)
        result = VideoResult(muxed.refs["video"], muxed.refs["poster"], muxed.duration_seconds) if muxed else None

        def ended(status: Status) -> Status:
            if status.state in states.TERMINAL:
                return status
            return states.concluded(status, datetime.now(UTC), result, conclusion.error)

        with suppress(NotFound):
            await self._records.change(conclusion.key, ended)
        with suppress(Unavailable):
            await self._dispatcher.dispatch()

    async def _stage(self, stage: Stage, given: StageInput) -> StageOutput:
        """One attempt: refuses for a video at its end, gives the earlier result if there is one, else does the work."""
        heartbeats = asyncio.create_task(_beat())
        try:
            video = await self._begin(stage, given)
            output = await self._attempts.winner(given.key, stage)
            if output is None:
                output = await self._attempt(stage, video, given)
            await self._note_end(stage, video, output)
            return StageOutput(dict(output.refs))
        except SoundstageError as error:
            _fail(error)
        except asyncio.CancelledError:
            _fail_if_worker_stops()
            raise
        finally:
            heartbeats.cancel()
            with suppress(asyncio.CancelledError):
                await heartbeats

    async def _begin(self, stage: Stage, given: StageInput) -> Video:
        def begun(status: Status) -> Status:
            if status.state in states.TERMINAL or status.state is State.CANCELLING:
                raise _Ended
            if any(timing.stage is stage for timing in status.timings):
                return status
            if status.state is State.QUEUED:
                check_deadline(video.deadline)
            now = datetime.now(UTC)
            start_time = status.start_time or now
            running = replace(status, state=State.RUNNING, stage=stage, stage_start_time=now, start_time=start_time)
            return running.with_progress(0, 0)

        try:
            video = await self._records.get(given.key)
            return await self._records.change(given.key, begun)
        except (NotFound, _Ended):
            raise _ended() from None

    async def _attempt(self, stage: Stage, video: Video, given: StageInput) -> Output:
        attempt = f"{stage}-{activity.info().attempt}-{uuid.uuid4().hex[:8]}"
        await self._attempts.begin(video, stage, attempt)
        logger.info("video %s of %s: attempt %s begins", video.key.video_id, video.key.tenant, attempt)
        outcome = "LOST"
        try:
            output = await self._work(stage, self._job(video, attempt, given))
            output = await self._attempts.finish(video.key, stage, attempt, output)
            outcome = "FINISHED"
            metrics.STAGE_SECONDS.labels(stage=stage.value).observe(output.seconds)
        except asyncio.CancelledError:
            outcome = "STOPPED"
            raise
        except SoundstageError as error:
            outcome = error.reason
            raise
        else:
            return output
        finally:
            await self._note_outcome(stage, video, attempt, outcome)

    async def _work(self, stage: Stage, job: Job) -> Output:
        start_time, began = datetime.now(UTC), time.monotonic()
        async with aclosing(self._stages[stage].run(job)) as events:
            finished = await self._follow(job, events)
        return Output(
            refs=finished.refs,
            start_time=start_time,
            seconds=time.monotonic() - began,
            load_seconds=finished.load_seconds,
            gpu_seconds=finished.gpu_seconds,
            duration_seconds=finished.duration_seconds,
        )

    async def _follow(self, job: Job, events: AsyncGenerator[StageEvent, None]) -> Finished:
        written = 0.0
        async for event in events:
            activity.heartbeat()
            match event:
                case Finished():
                    return event
                case Progressed(step, total_steps):
                    if step < total_steps and time.monotonic() - written < PROGRESS_SECONDS:
                        continue
                    written = time.monotonic()
                    await self._records.change(job.key, _progressed(step, total_steps))
                case Previewed(jpeg):
                    await self._records.change(job.key, lambda status: status, preview_jpeg=jpeg)
        raise Internal("the stage ended without a result", reason="STAGE_WITHOUT_RESULT")

    async def _note_end(self, stage: Stage, video: Video, output: Output) -> None:
        timing = StageTiming(
            stage, output.start_time, output.seconds, output.load_seconds, output.gpu_seconds, output.attempts
        )

        def with_timing(status: Status) -> Status:
            if status.state in states.TERMINAL or any(known.stage is stage for known in status.timings):
                return status
            total = max(status.total_steps, 1)
            return replace(status, timings=(*status.timings, timing)).with_progress(total, total)

        await self._records.change(video.key, with_timing)

    async def _note_outcome(self, stage: Stage, video: Video, attempt: str, outcome: str) -> None:
        metrics.STAGE_ATTEMPTS.labels(stage=stage.value, outcome=outcome).inc()
        logger.info("video %s of %s: attempt %s: %s", video.key.video_id, video.key.tenant, attempt, outcome)
        if outcome != "FINISHED":
            with suppress(Unavailable):
                await asyncio.shield(self._attempts.end(video.key, stage, attempt, outcome))

    def _job(self, video: Video, attempt: str, given: StageInput) -> Job:
        return Job(
            key=video.key,
            attempt=attempt,
            spec=video.spec,
            image=video.image,
            priority=video.priority,
            deadline=video.deadline,
            preview_every_steps=self._preview_every_steps,
            inputs=given.inputs,
        )


def _ended() -> ApplicationError:
    return ApplicationError("the video has ended", type=VIDEO_ENDED, non_retryable=True)


class _Ended(Exception):  # noqa: N818 - not an error: the video needs no more work
    pass


async def _beat() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(BEAT_SECONDS)


def _progressed(step: int, total_steps: int) -> Callable[[Status], Status]:
    def new(status: Status) -> Status:
        return status if status.state in states.TERMINAL else status.with_progress(step, total_steps)

    return new


def _fail_if_worker_stops() -> None:
    """A worker that stops is no wish of the user's: the attempt fails, so that another worker tries again."""
    details = activity.cancellation_details()
    if details is not None and details.worker_shutdown:
        raise ApplicationError("the worker is stopping", type="WORKER_STOPPING")


def _fail(error: SoundstageError) -> NoReturn:
    """Tells Temporal what went wrong and whether trying again makes sense."""
    retryable = isinstance(error, Unavailable | ResourceExhausted | Internal)
    if isinstance(error, Internal) and activity.info().attempt >= MAX_INTERNAL_ATTEMPTS:
        retryable = False
    raise ApplicationError(str(error), type=error.reason, non_retryable=not retryable) from error
