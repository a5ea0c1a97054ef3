"""The fleet itself, in SimPy: a queue in front of pods that take one video at a time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from bench.fleet.autoscaler import SYNC_SECONDS, Autoscaler
from bench.fleet.traces import Trace

__all__ = ["Fleet", "Outcome"]

# Node, image, weights, engine: uniform between these seconds, one after the other.
COLD_STARTS = ((60.0, 120.0), (20.0, 60.0), (20.0, 60.0), (10.0, 30.0))
GRACE_SECONDS = 300.0
REPEATED_SECONDS = 10.0
"""Work since the last checkpoint that is done again, at most, when a pod ends in the middle of a video."""
DRAIN_SECONDS = 4 * 3600.0


@dataclass(frozen=True)
class Outcome:
    """Waiting is from arrival to the first step; GPU-hours from a pod's creation to its end."""

    videos: int
    wait_p50: float
    wait_p95: float
    wait_p99: float
    gpu_hours: float
    busy_share: float
    interrupted: int
    most_pods: int


class Pod:
    __slots__ = ("busy_until", "draining", "ready", "video")

    def __init__(self) -> None:
        self.video = -1
        self.busy_until = 0.0
        self.ready = self.draining = False


class Fleet:
    """`wanted(fleet)` is asked every 15 s for replicas. Videos are taken in order of arrival."""

    def __init__(
        self,
        trace: Trace,
        autoscaler: Autoscaler,
        wanted: Callable[[Fleet], int],
        clear_seconds: float,
        random: np.random.Generator,
    ) -> None:
        self.environment = simpy.Environment()
        self.trace, self.autoscaler, self.wanted, self.random = trace, autoscaler, wanted, random
        self.estimates: list[float] = trace.estimates.tolist()
        self.shares: list[float] = np.minimum(trace.estimates / clear_seconds, 1.0).tolist()
        self.remaining: list[float] = trace.seconds.tolist()
        self.started = np.full(len(trace.arrivals), np.nan)
        self.queue: deque[int] = deque()
        self.queued_share = self.queued_estimate = self.running_estimate = 0.0
        self.idle: dict[Pod, None] = {}
        self.busy: dict[Pod, None] = {}
        self.starting: dict[Pod, None] = {}
        self.draining = self.interrupted = self.most_pods = 0
        self._alive_seconds = self._busy_seconds = self._since = 0.0
        self._ready: dict[Pod, None] = {}

    @property
    def replicas(self) -> int:
        return len(self.starting) + len(self._ready)

    @property
    def ready(self) -> int:
        return len(self._ready)

    def run(self) -> Outcome:
        environment = self.environment
        self._scale_to(self.autoscaler.least)
        environment.process(self._arrive())
        environment.process(self._control())
        environment.run(until=self.trace.duration)
        end = self.trace.duration + DRAIN_SECONDS
        while (self.queue or self.busy or self.draining) and environment.now < end:
            environment.run(until=environment.now + 60)
        self._account()
        waits = np.where(np.isnan(self.started), environment.now, self.started) - self.trace.arrivals
        p50, p95, p99 = np.percentile(waits, (50, 95, 99)).tolist()
        return Outcome(
            videos=len(waits),
            wait_p50=p50,
            wait_p95=p95,
            wait_p99=p99,
            gpu_hours=self._alive_seconds / 3600,
            busy_share=self._busy_seconds / self._alive_seconds,
            interrupted=self.interrupted,
            most_pods=self.most_pods,
        )

    def _arrive(self) -> Generator[Any, Any, None]:
        environment = self.environment
        for video, time in enumerate(self.trace.arrivals.tolist()):
            if time > environment.now:
                yield environment.timeout(time - environment.now)
            self._enqueue(video)

    def _control(self) -> Generator[Any, Any, None]:
        while True:
            yield self.environment.timeout(SYNC_SECONDS)
            now, current = self.environment.now, self.replicas
            self._scale_to(self.autoscaler.replicas(now, current, self.wanted(self)))

    def _enqueue(self, video: int, *, first: bool = False) -> None:
        if self.idle:
            self._begin(self.idle.popitem()[0], video)
            return
        (self.queue.appendleft if first else self.queue.append)(video)
        self.queued_share += self.shares[video]
        self.queued_estimate += self.estimates[video]

    def _begin(self, pod: Pod, video: int) -> None:
        now, seconds = self.environment.now, self.remaining[video]
        if math.isnan(self.started[video]):
            self.started[video] = now
        pod.video, pod.busy_until = video, now + seconds
        self.busy[pod] = None
        self.running_estimate += self.estimates[video]
        self._after(seconds, lambda _: self._end(pod, video))

    def _end(self, pod: Pod, video: int) -> None:
        if pod.video != video or self.environment.now < pod.busy_until - 1e-6:
            return  # it was interrupted
        self._busy_seconds += self.remaining[video]
        self._leave(pod)
        if pod.draining:
            self._gone()
        else:
            self._next(pod)

    def _leave(self, pod: Pod) -> None:
        self.running_estimate -= self.estimates[pod.video]
        self.busy.pop(pod, None)
        pod.video = -1

    def _next(self, pod: Pod) -> None:
        if not self.queue:
            self.idle[pod] = None
            return
        video = self.queue.popleft()
        self.queued_share -= self.shares[video]
        self.queued_estimate -= self.estimates[video]
        self._begin(pod, video)

    def _scale_to(self, replicas: int) -> None:
        self._account()
        for _ in range(replicas - self.replicas):
            self._start()
        for _ in range(self.replicas - replicas):
            self._stop()
        self.most_pods = max(self.most_pods, self.replicas)

    def _start(self) -> None:
        pod = Pod()
        self.starting[pod] = None
        seconds = sum(self.random.uniform(*bounds) for bounds in COLD_STARTS)
        self._after(seconds, lambda _: self._started(pod))

    def _started(self, pod: Pod) -> None:
        if pod in self.starting:
            del self.starting[pod]
            self._ready[pod] = None
            self._next(pod)

    def _stop(self) -> None:
        """What is not ready goes first, then the newest: Kubernetes does not know who works."""
        if self.starting:
            self.starting.popitem()
            return
        pod, _ = self._ready.popitem()
        if pod in self.idle:
            del self.idle[pod]
            return
        pod.draining = True
        self.draining += 1
        if pod.busy_until > self.environment.now + GRACE_SECONDS:
            video = pod.video
            self._after(GRACE_SECONDS, lambda _: self._interrupt(pod, video))

    def _interrupt(self, pod: Pod, video: int) -> None:
        """The grace is over; another pod goes on from the last checkpoint."""
        left = pod.busy_until - self.environment.now
        self._busy_seconds += self.remaining[video] - left
        self.remaining[video] = left + self.random.uniform(0, REPEATED_SECONDS)
        self.interrupted += 1
        self._leave(pod)
        self._gone()
        self._enqueue(video, first=True)

    def _gone(self) -> None:
        self._account()
        self.draining -= 1

    def _account(self) -> None:
        now = self.environment.now
        self._alive_seconds += (now - self._since) * (self.replicas + self.draining)
        self._since = now

    def _after(self, seconds: float, then: Callable[[Any], None]) -> None:
        callbacks = self.environment.timeout(seconds).callbacks
        assert callbacks is not None
        callbacks.append(then)
