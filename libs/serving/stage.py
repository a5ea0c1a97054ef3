"""Runs the work of a stage in a thread and tells how it goes: the same for all five stages."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from soundstage.artifact.v1 import artifact_pb2

from libs.errors import FailedPrecondition

__all__ = [
    "Cancelled",
    "Done",
    "Heartbeat",
    "Progress",
    "RecordingStage",
    "Stage",
    "abandon_work",
    "at_work",
    "run_stage",
    "stop_stage",
    "wait_until_idle",
]

R = TypeVar("R")
T = TypeVar("T")
_log = logging.getLogger(__name__)
_EVENT_LIMIT = 64
_STILL_STOPPING_SECONDS = 30.0
_at_work: set[asyncio.Future[object]] = set()
_attempts: dict[tuple[str, str, str], _ThreadStage] = {}


class Cancelled(Exception):  # noqa: N818 (not an error: the caller wanted it)
    """Raised inside the work, to end it, once its RPC was cancelled."""


@dataclass(frozen=True)
class Heartbeat:
    """Nothing happened for a while, but the work goes on."""

    elapsed_seconds: float


@dataclass(frozen=True)
class Progress:
    """``step`` of ``total_steps`` is done."""

    step: int
    total_steps: int


@dataclass(frozen=True)
class Done(Generic[R]):
    """The end: what the work returned, and the seconds from the call's begin to now."""

    result: R
    wall_seconds: float


class Stage(Protocol):
    """What the work sees of its caller. Called from the worker thread."""

    def progress(self, step: int, total_steps: int) -> None: ...

    def emit(self, event: object) -> None:
        """Pass on any other event; waits while the caller reads slower than the work emits."""
        ...

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` once the RPC was cancelled. To be called between steps."""
        ...


@dataclass
class RecordingStage:
    """The fake: keeps the events; raises `Cancelled` once ``cancelled`` is true."""

    events: list[object] = field(default_factory=list)
    cancelled: bool = False

    def progress(self, step: int, total_steps: int) -> None:
        self.emit(Progress(step, total_steps))

    def emit(self, event: object) -> None:
        self.raise_if_cancelled()
        self.events.append(event)

    def raise_if_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled


class _End:
    """Marks the end of the events in the queue."""


_END: Final = _End()


class _ThreadStage:
    """The real one. Events cross to the event loop; at most ``_EVENT_LIMIT`` wait there."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[object] = asyncio.Queue()
        self._room = threading.Semaphore(_EVENT_LIMIT)
        self._cancelled = threading.Event()

    def progress(self, step: int, total_steps: int) -> None:
        self.emit(Progress(step, total_steps))

    def emit(self, event: object) -> None:
        self.raise_if_cancelled()
        while not self._room.acquire(timeout=0.1):
            self.raise_if_cancelled()
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def raise_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def cancel(self) -> None:
        self._cancelled.set()

    def end(self) -> None:
        self._events.put_nowait(_END)

    async def next_event(self, timeout_seconds: float) -> object:
        event = await asyncio.wait_for(self._events.get(), timeout_seconds)
        if event is not _END:
            self._room.release()
        return event


async def run_stage(
    work: Callable[[Stage], R], *, attempt: artifact_pb2.Attempt | None = None, heartbeat_seconds: float = 5.0
) -> AsyncGenerator[Heartbeat | Progress | object | Done[R], None]:
    """Run ``work`` in a thread of its own and yield its events, at last `Done`. What the work raises is raised here.

    After ``heartbeat_seconds`` without an event a `Heartbeat` is yielded. When the consumer is cancelled or closed, the
    work is told, and this waits until the thread has stopped: the call is only over when the work is. A caller who
    cancels an RPC does not see that wait; `stop_stage` with the same ``attempt`` is for who needs to.
    """
    began = time.monotonic()
    stage = _ThreadStage()
    future = _start(work, stage)
    if attempt is not None:
        _attempts[_name(attempt)] = stage
    try:
        while True:
            try:
                event = await stage.next_event(heartbeat_seconds)
            except TimeoutError:
                event = Heartbeat(time.monotonic() - began)
            if event is _END:
                break
            yield event
        yield Done(_result(future), time.monotonic() - began)
    finally:
        stage.cancel()
        await _until_over(future)
        # Unless the same attempt has been begun once more meanwhile: that one may yet have to be stopped.
        if attempt is not None and _attempts.get(_name(attempt)) is stage:
            del _attempts[_name(attempt)]


def stop_stage(attempt: artifact_pb2.Attempt) -> bool:
    """Tell the work of ``attempt`` to stop; False if it is not at work here. Its `run_stage` raises once it stopped."""
    stage = _attempts.get(_name(attempt))
    if stage is None:
        return False
    stage.cancel()
    return True


def _name(attempt: artifact_pb2.Attempt) -> tuple[str, str, str]:
    return attempt.tenant, attempt.video_id, attempt.attempt


def _result(future: asyncio.Future[R]) -> R:
    try:
        return future.result()
    except Cancelled:
        raise FailedPrecondition("the work was stopped, as was asked", reason="STOPPED") from None


def _start(work: Callable[[Stage], R], stage: _ThreadStage) -> asyncio.Future[R]:
    """Start a daemon thread: work that never looks at its cancellation must not keep the process from ending."""
    outcome: Future[R] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(work, stage)
        except BaseException as error:  # noqa: BLE001 (it is raised again by whoever reads the outcome)
            _settle(outcome.set_exception, error)
        else:
            _settle(outcome.set_result, result)

    future = asyncio.wrap_future(outcome)
    _at_work.add(future)  # type: ignore[arg-type]
    future.add_done_callback(_at_work.discard)
    future.add_done_callback(lambda _: stage.end())
    threading.Thread(target=run, name="stage", daemon=True).start()
    return future


def _settle(settle: Callable[[T], None], value: T) -> None:
    with contextlib.suppress(InvalidStateError):  # abandoned: nobody asks any more
        settle(value)


async def _until_over(future: asyncio.Future[R]) -> None:
    while not future.done():
        try:
            await asyncio.wait([future], timeout=_STILL_STOPPING_SECONDS)
            if not future.done():
                _log.warning("cancelled work has not stopped yet; it must call raise_if_cancelled between steps")
        except asyncio.CancelledError:
            # A second cancellation (the server's stop) changes nothing: the thread still runs.
            continue
    if not future.cancelled():
        # Marks an exception as seen: the caller who would have wanted it is gone.
        future.exception()


def at_work() -> int:
    """How many calls of stages are at work in this process."""
    return len(_at_work)


async def wait_until_idle(timeout_seconds: float) -> bool:
    """Wait until no stage is at work in this process; False when some still is after ``timeout_seconds``."""
    if not _at_work:
        return True
    _, still_at_work = await asyncio.wait(set(_at_work), timeout=timeout_seconds)
    return not still_at_work


def abandon_work() -> None:
    """Let every call end whose work does not: for the end of the process, which takes the threads with it."""
    for future in set(_at_work):
        future.cancel()
