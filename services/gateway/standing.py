"""Where the queued videos stand and when they will be ready: worked out once for all who ask within a moment.

The line is played through with the very rule that hands out the places, and each place with what its video should still
take. The longer the line, the longer the answer is used for: working it out never costs more than about a twentieth.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.gateway.admission import Admission, Queue
from services.gateway.attempts import Attempts
from services.gateway.progress import eta_seconds
from services.gateway.records import Records
from services.gateway.speeds import Speeds
from services.gateway.video import Shape, Spec, Stage, State, Status, Video

PAUSE_SECONDS, PAUSE_SECONDS_A_VIDEO, LONGEST_PAUSE_SECONDS = 0.2, 0.0006, 5.0
"""About twenty times what it takes: some 5 ms, and 30 µs for every video in the line."""
SPEEDS_SECONDS, UNKNOWN_SECONDS = 2.0, 0.25
"""How long measured speeds are used before they are asked for again, and how long nothing is asked of a model of which
nothing is known: a rush of first videos must not ask for each."""


@dataclass(frozen=True)
class Standing:
    """Videos before this one, at work or waiting, and seconds until it is ready; None where nothing is known."""

    ahead: int
    eta_seconds: float | None


@dataclass
class Forecast:
    """For each waiting video its place in the line and the seconds until it begins, as of `time`."""

    time: datetime
    begins: dict[str, tuple[int, float | None]]
    ahead_of_new: int
    new_begins: float | None
    newcomers: dict[str, int] = field(default_factory=dict)
    """Videos that came after the forecast was made: they are put at the end until the next one."""


class Expectations:
    """Seconds that a video of a spec should take by stage, from the model's last videos."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._speeds: dict[str, tuple[float, Speeds]] = {}

    async def of(self, spec: Spec) -> dict[Stage, float]:
        """Empty while no video of the model has been made."""
        return (await self._of_model(spec.model)).expected(spec.shape)

    async def seconds(self, shapes: Collection[Shape]) -> dict[Shape, float]:
        """From the first stage to the end; 0 where nothing is known."""
        speeds = {model: await self._of_model(model) for model in {shape.model for shape in shapes}}
        return {shape: sum(speeds[shape.model].expected(shape).values()) for shape in shapes}

    async def _of_model(self, model: str) -> Speeds:
        use_until, speeds = self._speeds.get(model, (0.0, Speeds()))
        if time.monotonic() >= use_until:
            speeds = await self._attempts.speeds(model)
            self._speeds[model] = time.monotonic() + (SPEEDS_SECONDS if speeds.known else UNKNOWN_SECONDS), speeds
        return speeds


class Standings:
    def __init__(self, admission: Admission, records: Records, expectations: Expectations) -> None:
        self._admission, self._records, self._expectations = admission, records, expectations
        self._working = asyncio.Lock()
        self._forecast = Forecast(datetime.now(UTC), {}, 0, None)
        self._next_time = 0.0

    async def of(self, video: Video, at: datetime) -> Standing:
        """As of `at` for a video at work, as of now for a queued one; it is 0 videos behind once it has begun."""
        if video.status.state is State.RUNNING:
            # With what was known when it began: an event that is read again says the same.
            return Standing(0, eta_seconds(video.status, video.expected_seconds, at))
        if video.status.state is not State.QUEUED:
            return Standing(0, None)
        expected = await self._expectations.of(video.spec)
        ahead, begins = await self._place(video)
        return Standing(ahead, begins + sum(expected.values()) if expected and begins is not None else None)

    async def _place(self, video: Video) -> tuple[int, float | None]:
        async with self._working:
            if time.monotonic() >= self._next_time:
                await self._work_out()
            forecast = self._forecast
        ahead, begins = forecast.begins.get(video.key.video_id) or (
            forecast.ahead_of_new + forecast.newcomers.setdefault(video.key.video_id, len(forecast.newcomers)),
            forecast.new_begins,
        )
        passed = (datetime.now(UTC) - forecast.time).total_seconds()
        return ahead, None if begins is None else max(begins - passed, 0.0)

    async def _work_out(self) -> None:
        now = datetime.now(UTC)
        queue, at_work = await self._admission.queue(), await self._records.at_work()
        left = [_left(video.status, await self._expectations.of(video.spec), now) for video in at_work]
        seconds = await self._expectations.seconds(set(queue.shapes.values()))
        self._forecast = await asyncio.to_thread(forecast, queue, seconds, left, now)
        pause_seconds = PAUSE_SECONDS + PAUSE_SECONDS_A_VIDEO * len(queue.waiting)
        self._next_time = time.monotonic() + min(pause_seconds, LONGEST_PAUSE_SECONDS)


def _left(status: Status, expected: Mapping[Stage, float], now: datetime) -> float:
    """Seconds until its place is free; endless where nothing is known."""
    match status.state:
        case State.QUEUED:  # it has its place and has not begun
            return sum(expected.values()) or math.inf
        case State.RUNNING:
            left = eta_seconds(status, expected, now)
            return math.inf if left is None else left
        case _:
            return 0.0


def forecast(queue: Queue, seconds: Mapping[Shape, float], left: Sequence[float], now: datetime) -> Forecast:
    """`seconds`: what a video of each shape in the line takes, 0 where nothing is known: then as the others do.

    `left`: what those at work still need.
    """
    known = [whole for shape in queue.shapes.values() if (whole := seconds[shape])]
    usual = sum(known) / len(known) if known else math.inf
    # A worker that died leaves more at work than there are places: the first to end free none.
    free = sorted(left)[max(len(left) - queue.places, 0) :]
    free = free + [0.0] * (queue.places - len(free)) or [math.inf]
    heapq.heapify(free)
    begins: dict[str, tuple[int, float | None]] = {}
    for index, video in enumerate(queue.waiting):
        start = heapq.heapreplace(free, free[0] + (seconds[queue.shapes[video.video_id]] or usual))
        begins[video.video_id] = len(left) + index, _finite(start)
    return Forecast(now, begins, len(left) + len(begins), _finite(free[0]))


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None
