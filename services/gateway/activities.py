"""What the workflow's steps do: call a stage's service, pass on what it says, and write down what came out.

Every attempt of a stage has its own id, and so its own folder for artifacts. The first attempt that finishes counts: a
later one of the same stage finds its result and does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import NoReturn, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from libs.errors import FailedPrecondition, Internal, NotFound, SoundstageError, Unavailable
from services.gateway import metrics, states
from services.gateway.admission import Admission, check_deadline
from services.gateway.attempts import FINISHED, SUPERSEDED, Attempts, Output
from services.gateway.concluding import conclude
from services.gateway.dispatcher import Dispatcher
from services.gateway.records import Records
from services.gateway.retries import WORKER_LOST, Retries, too_deadly
from services.gateway.stages import Finished, Job, Previewed, Progressed, StageClient, StageEvent
from services.gateway.trace import attempt_span, call_span, video_span
from services.gateway.video import Stage, StageTiming, State, Status, Video, VideoError, VideoKey
from services.gateway.workflow import (
    LONGEST_WAIT_SECONDS,
    VIDEO_ENDED,
    Conclusion,
    PlaceInLine,
    StageInput,
    StageOutput,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")

BEAT_SECONDS = 1.0
"""Temporal tells an activity that it was cancelled when that sends a heartbeat; a silent stage must not delay it."""

PROGRESS_SECONDS = 0.2
"""Progress that follows earlier progress more closely than this is not written down, unless it is a stage's last."""

NO_PREVIEW = Previewed(b"")

DEADLINE_MARGIN_SECONDS = 0.2
"""A video asks again when its deadline has passed, not a moment before."""

RECORD_SECONDS, RECORD_PAUSE_SECONDS = 60.0, 0.5
"""For how long a finished stage's output is written down again and again when the database is away: minutes of work
must not be lost to a restart of it."""


class VideoActivities:
    def __init__(
        self,
        records: Records,
        attempts: Attempts,
        admission: Admission,
        dispatcher: Dispatcher,
        stages: Mapping[Stage, StageClient],
        retries: Retries,
        preview_every_steps: int,
    ) -> None:
        self._records, self._attempts, self._stages = records, attempts, stages
        self._admission, self._dispatcher = admission, dispatcher
        self._retries, self._preview_every_steps = retries, preview_every_steps

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
        await conclude(self._records, self._attempts, conclusion.key, conclusion.error)
        with suppress(Unavailable):
            await self._dispatcher.dispatch()
        if conclusion.traceparent:
            await self._tell_trace(conclusion)

    async def _tell_trace(self, conclusion: Conclusion) -> None:
        with suppress(NotFound, Unavailable):
            video_span(await self._records.get(conclusion.key), conclusion.traceparent)

    async def _stage(self, stage: Stage, given: StageInput) -> StageOutput:
        with attempt_span(stage, given.key, given.traceparent, activity.info().attempt):
            return await self._reported(stage, given)

    async def _reported(self, stage: Stage, given: StageInput) -> StageOutput:
        """One attempt: refuses for a video at its end, gives the earlier result if there is one, else does the work."""
        heartbeats = asyncio.create_task(_beat())
        attempt = _attempt_id(stage)
        try:
            video = await self._begin(stage, attempt, given)
            output = await self._attempts.winner(given.key, stage)
            if output is None:
                output = await self._attempt(stage, attempt, video, given)
            await _persistently(lambda: self._note_end(stage, video, output))
            return StageOutput(dict(output.refs))
        except _Ended:
            raise _ended() from None
        except _Superseded:
            raise ApplicationError("another attempt has taken over", type="SUPERSEDED") from None
        except SoundstageError as error:
            await self._fail(stage, given.key, error)
        except asyncio.CancelledError:
            _fail_if_worker_stops()
            raise
        finally:
            heartbeats.cancel()
            with suppress(asyncio.CancelledError):
                await heartbeats

    async def _begin(self, stage: Stage, attempt: str, given: StageInput) -> Video:
        """The video, now in this attempt of the stage, unless a later attempt has begun.

        A worker that was away for so long that it was taken for dead must not take over from its successor.
        """
        number = activity.info().attempt

        def begun(status: Status) -> Status:
            if status.state in states.TERMINAL or status.state is State.CANCELLING:
                raise _Ended
            if status.stage is stage and status.attempt_number > number:
                raise _Superseded
            if any(timing.stage is stage for timing in status.timings):
                return status
            if status.state is State.QUEUED:
                check_deadline(video.deadline)
            now = datetime.now(UTC)
            start_time = status.start_time or now
            running = replace(status, state=State.RUNNING, stage=stage, stage_start_time=now, start_time=start_time)
            return replace(running, attempt=attempt, attempt_number=number).with_progress(0, 0)

        try:
            video = await self._records.get(given.key)
            expected = await self._attempts.expected(video.spec) if stage is Stage.ENCODE else None
            return await self._records.change(given.key, begun, expected_seconds=expected)
        except NotFound:
            raise _Ended from None

    async def _attempt(self, stage: Stage, attempt: str, video: Video, given: StageInput) -> Output:
        if too_deadly(await self._attempts.failed(video.key, stage)):
            raise FailedPrecondition("the processes that made this video were lost too often", reason=WORKER_LOST)
        for lost in await self._attempts.unended(video.key, stage):
            await self._stages[stage].stop(video.key, lost)
        await self._attempts.begin(video, stage, attempt, activity.info().attempt)
        logger.info("video %s of %s: attempt %s begins", video.key.video_id, video.key.tenant, attempt)
        outcome, message = "STOPPED", ""
        try:
            made = await self._work(stage, self._job(video, attempt, given))
            output = await _persistently(lambda: self._attempts.finish(video.key, stage, attempt, made))
            outcome = FINISHED
            metrics.STAGE_SECONDS.labels(stage=stage.value).observe(output.seconds)
            metrics.STAGE_GPU_SECONDS.labels(stage=stage.value, model=video.spec.model).inc(output.gpu_seconds)
        except _Ended:
            raise
        except _Superseded:
            outcome = SUPERSEDED
            raise
        except SoundstageError as error:
            outcome, message = error.reason, str(error)
            raise
        except Exception as error:
            outcome, message = "INTERNAL", "internal error"
            raise Internal("internal error", reason="INTERNAL") from error
        else:
            return output
        finally:
            await self._note_outcome(stage, video, attempt, outcome, message)

    async def _work(self, stage: Stage, job: Job) -> Output:
        start_time, began = datetime.now(UTC), time.monotonic()
        with call_span(stage, job.attempt):
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
                    if not event.begins and step < total_steps and time.monotonic() - written < PROGRESS_SECONDS:
                        continue
                    written = time.monotonic()
                    await self._tell(job, event)
                case Previewed():
                    await self._tell(job, None, event)
        raise Internal("the stage ended without a result", reason="STAGE_WITHOUT_RESULT")

    async def _tell(self, job: Job, progress: Progressed | None, preview: Previewed = NO_PREVIEW) -> None:
        """Writes down how far the stage is, if this attempt is the one that counts; else the attempt ends here."""

        def told(status: Status) -> Status:
            if status.state in states.TERMINAL:
                raise _Ended
            if status.attempt != job.attempt:
                raise _Superseded
            if progress is None:
                return status
            if progress.begins:
                done_before = progress.step / max(progress.total_steps, 1)
                status = replace(status, denoise_done_before=done_before)
            return status.with_progress(progress.step, progress.total_steps)

        try:
            await self._records.change(job.key, told, preview.jpeg, preview_sound=preview.sound)
        except NotFound:
            raise _Ended from None
        except Unavailable as error:  # the work is worth more than the news of it
            logger.warning("video %s of %s: progress not written: %s", job.key.video_id, job.key.tenant, error)

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

    async def _note_outcome(self, stage: Stage, video: Video, attempt: str, outcome: str, message: str) -> None:
        metrics.STAGE_ATTEMPTS.labels(stage=stage.value, outcome=outcome).inc()
        logger.info("video %s of %s: attempt %s: %s", video.key.video_id, video.key.tenant, attempt, outcome)
        if outcome != FINISHED:
            with suppress(Unavailable):
                await asyncio.shield(self._attempts.end(video.key, stage, attempt, outcome, message))

    async def _fail(self, stage: Stage, key: VideoKey, error: SoundstageError) -> NoReturn:
        """Tells Temporal what went wrong, and whether and when another attempt makes sense."""
        number = activity.info().attempt
        try:
            failed = await self._attempts.failed(key, stage)
        except Unavailable:
            failed = []
        earlier = [one for one in failed if one.number != number]
        raise ApplicationError(
            str(error),
            type=error.reason,
            non_retryable=not self._retries.may_follow(error, earlier),
            next_retry_delay=self._retries.wait(number, error),
        ) from error

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


class _Superseded(Exception):  # noqa: N818 - not an error: another attempt does the work
    pass


def _attempt_id(stage: Stage) -> str:
    return f"{stage}-{activity.info().attempt}-{uuid.uuid4().hex[:8]}"


async def _beat() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(BEAT_SECONDS)


async def _persistently(write: Callable[[], Awaitable[T]]) -> T:
    """Tries again while the database is away, for a bounded time."""
    deadline = time.monotonic() + RECORD_SECONDS
    while True:
        try:
            return await write()
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(RECORD_PAUSE_SECONDS * random.uniform(0.7, 1.3))


def _fail_if_worker_stops() -> None:
    """A worker that stops is no wish of the user's: the attempt fails, so that another worker tries again."""
    details = activity.cancellation_details()
    if details is not None and details.worker_shutdown:
        raise ApplicationError("the worker is stopping", type="WORKER_STOPPING")
