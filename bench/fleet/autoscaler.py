"""The Horizontal Pod Autoscaler's algorithm, which KEDA uses too, after Kubernetes' documentation of autoscaling/v2.

Not here: KEDA's own step between zero and one, which needs a fleet that may be empty.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

__all__ = ["SYNC_SECONDS", "Autoscaler", "Behaviour"]

SYNC_SECONDS = 15.0
TOLERANCE = 0.1


@dataclass(frozen=True)
class Behaviour:
    """As in the chart's values: autoscaling.queue.scaleUp and .scaleDown."""

    up_pods: int = 4
    up_percent: float = 100.0
    up_period: float = 30.0
    down_percent: float = 20.0
    down_period: float = 60.0
    down_window: float = 300.0


@dataclass
class Autoscaler:
    least: int
    most: int
    behaviour: Behaviour
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: deque[tuple[float, int]] = field(default_factory=deque)

    def replicas(self, now: float, current: int, wanted: int) -> int:
        """What the fleet is set to, for what the metric wants now."""
        wanted = min(max(wanted, self.least), self.most)
        stable = self._stabilised(now, current, wanted)
        chosen = self._limited(now, current, stable)
        if chosen != current:
            self._changes.append((now, chosen - current))
        return chosen

    def _stabilised(self, now: float, current: int, wanted: int) -> int:
        """Scaling in follows the largest of the window, scaling out the present."""
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - self.behaviour.down_window:
            self._wanted.popleft()
        return wanted if wanted > current else min(current, max(value for _, value in self._wanted))

    def _limited(self, now: float, current: int, wanted: int) -> int:
        rule = self.behaviour
        while self._changes and self._changes[0][0] <= now - max(rule.up_period, rule.down_period):
            self._changes.popleft()
        if wanted > current:
            start = current - self._changed(now - rule.up_period, up=True)
            return min(wanted, max(start + rule.up_pods, math.ceil(start * (1 + rule.up_percent / 100)), current))
        start = current - self._changed(now - rule.down_period, up=False)
        return max(wanted, min(math.floor(start * (1 - rule.down_percent / 100)), current))

    def _changed(self, since: float, *, up: bool) -> int:
        return sum(change for time, change in self._changes if time > since and (change > 0) == up)


def of_total(total: float, target: float, current: int) -> int:
    """An external metric with an average value: the sum over the target."""
    if current and abs(total / (target * current) - 1) <= TOLERANCE:
        return current
    return math.ceil(total / target - 1e-9)


def of_pods(used: float, target: float, ready: int, starting: int) -> int:
    """A metric of each pod, averaged; `used` is its sum over those that are ready. What starts counts as idle."""
    current = ready + starting
    if not ready:
        return current
    ratio = used / ready / target
    if abs(ratio - 1) <= TOLERANCE:
        return current
    if ratio < 1:
        return math.ceil(ratio * ready)
    with_starting = used / current / target
    if with_starting < 1 or abs(with_starting - 1) <= TOLERANCE:
        return current
    return math.ceil(with_starting * current)
