from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from contextlib import aclosing

import pytest
from soundstage.artifact.v1 import artifact_pb2

from libs.errors import FailedPrecondition
from libs.serving import Cancelled, Done, Heartbeat, Progress, RecordingStage, Stage, run_stage, stop_stage
from libs.serving.stage import wait_until_idle


async def test_events_arrive_in_order_and_the_result_last() -> None:
    def work(stage: Stage) -> str:
        stage.progress(1, 2)
        stage.emit("preview")
        stage.progress(2, 2)
        return "made"

    events = [event async for event in run_stage(work)]
    assert events[:-1] == [Progress(1, 2), "preview", Progress(2, 2)]
    assert isinstance(events[-1], Done)
    assert events[-1].result == "made"
    assert 0 <= events[-1].wall_seconds < 5


async def test_work_runs_in_another_thread_with_the_callers_context() -> None:
    name = contextvars.ContextVar("name", default="")
    name.set("video-1")
    events = [event async for event in run_stage(lambda _: (threading.get_ident(), name.get()))]
    assert isinstance(events[-1], Done)
    thread, seen = events[-1].result
    assert thread != threading.get_ident()
    assert seen == "video-1"


async def test_silent_work_gives_heartbeats() -> None:
    events = [event async for event in run_stage(lambda _: time.sleep(0.35), heartbeat_seconds=0.1)]
    beats = [event.elapsed_seconds for event in events if isinstance(event, Heartbeat)]
    assert 2 <= len(beats) <= 4
    assert beats == sorted(beats)


async def test_what_the_work_raises_is_raised_after_its_events() -> None:
    def work(stage: Stage) -> None:
        stage.progress(1, 2)
        raise LookupError("no such thing")

    events = run_stage(work)
    assert await anext(events) == Progress(1, 2)
    with pytest.raises(LookupError, match="no such thing"):
        await anext(events)


class _Slow:
    """Work that goes on until cancelled, then takes its time to stop."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.over = threading.Event()

    def __call__(self, stage: Stage) -> None:
        self.begun.set()
        try:
            while True:
                stage.raise_if_cancelled()
                time.sleep(0.01)
        finally:
            time.sleep(0.2)
            self.over.set()


async def _consume(work: _Slow) -> None:
    async for _ in run_stage(work, heartbeat_seconds=0.05):
        pass


async def test_cancellation_is_over_only_when_the_thread_is() -> None:
    work = _Slow()
    task = asyncio.create_task(_consume(work))
    await asyncio.to_thread(work.begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.over.is_set()


async def test_stopped_work_is_told_when_its_thread_has_stopped() -> None:
    work, attempt = _Slow(), artifact_pb2.Attempt(tenant="acme", video_id="v1", attempt="a1")
    assert not stop_stage(attempt)
    events = run_stage(work, attempt=attempt)
    ending = asyncio.ensure_future(anext(events))
    await asyncio.to_thread(work.begun.wait, 5)
    assert not stop_stage(artifact_pb2.Attempt(tenant="acme", video_id="v1", attempt="a2"))
    assert stop_stage(attempt)
    with pytest.raises(FailedPrecondition) as stopped:
        await ending
    assert stopped.value.reason == "STOPPED"
    assert work.over.is_set()
    assert not stop_stage(attempt)


async def test_an_attempt_begun_once_more_can_be_stopped_when_the_first_is_over() -> None:
    first, second, attempt = _Slow(), _Slow(), artifact_pb2.Attempt(tenant="acme", video_id="v1", attempt="a1")
    one, other = (run_stage(work, attempt=attempt, heartbeat_seconds=0.05) for work in (first, second))
    async with aclosing(other):
        async with aclosing(one):
            await anext(one)
            await anext(other)
        assert first.over.is_set()
        assert stop_stage(attempt)
        with pytest.raises(FailedPrecondition, match="as was asked"):
            [event async for event in other]
    assert not stop_stage(attempt)


async def test_a_second_cancellation_does_not_leave_the_thread_behind() -> None:
    work = _Slow()
    task = asyncio.create_task(_consume(work))
    await asyncio.to_thread(work.begun.wait, 5)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.over.is_set()


async def test_closing_the_stream_stops_the_work() -> None:
    work = _Slow()
    async with aclosing(run_stage(work, heartbeat_seconds=0.05)) as events:
        assert isinstance(await anext(events), Heartbeat)
    assert work.over.is_set()


async def test_a_slow_reader_holds_the_work_back() -> None:
    emitted = []

    def work(stage: Stage) -> None:
        for number in range(300):
            stage.emit(number)
            emitted.append(number)

    async with aclosing(run_stage(work)) as events:
        assert await anext(events) == 0
        await asyncio.sleep(0.3)
        assert len(emitted) < 100
        assert [event async for event in events][:-1] == list(range(1, 300))


async def test_a_held_back_work_sees_its_cancellation() -> None:
    seen = threading.Event()

    def work(stage: Stage) -> None:
        try:
            while True:
                stage.emit("more")
        except Cancelled:
            seen.set()
            raise

    async with aclosing(run_stage(work)) as events:
        await anext(events)
        await asyncio.sleep(0.1)
    assert seen.is_set()


async def test_idle_is_told() -> None:
    work = _Slow()
    task = asyncio.create_task(_consume(work))
    await asyncio.to_thread(work.begun.wait, 5)
    assert not await wait_until_idle(0.05)
    task.cancel()
    assert await wait_until_idle(5)
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_recording_stage_records_and_cancels() -> None:
    stage = RecordingStage()
    stage.progress(1, 3)
    stage.emit("preview")
    assert stage.events == [Progress(1, 3), "preview"]
    stage.raise_if_cancelled()
    stage.cancelled = True
    with pytest.raises(Cancelled):
        stage.progress(2, 3)
