"""When videos arrive and how many GPU-seconds each takes, from a load in shares of the largest fleet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TRACES", "Trace", "mean_seconds"]

Floats = NDArray[np.float64]

# Median seconds of denoising, log-normal with sigma 0.3, and share: fast previews, the default, long videos.
KINDS = ((30.0, 0.6), (120.0, 0.3), (600.0, 0.1))
SIGMA = 0.3
ESTIMATE_SIGMA = 0.2
"""How far estimates are off: log-normal, as the gateway's are from earlier videos of the model."""

HOUR = 3600.0


@dataclass(frozen=True)
class Trace:
    """Sorted arrival times, the work of each video, and what is estimated of it; all in seconds."""

    arrivals: Floats
    seconds: Floats
    estimates: Floats
    duration: float


def mean_seconds(scale: float) -> float:
    return scale * sum(median * share for median, share in KINDS) * float(np.exp(SIGMA**2 / 2))


def steady(_: Floats, __: float) -> Floats:
    return np.full_like(_, 0.5)


def daily(times: Floats, duration: float) -> Floats:
    """A day, 10 to 90 %, in the duration of the trace."""
    return 0.5 - 0.4 * np.cos(2 * np.pi * times / duration)


def spiky(times: Floats, _: float) -> Floats:
    """15 %, and every 45 minutes for 3 minutes twice what the largest fleet can do."""
    return np.where(times % (0.75 * HOUR) < 180, 2.0, 0.15)


def adversarial(times: Floats, _: float) -> Floats:
    """Nothing until the fleet has just been scaled in, then a burst."""
    return np.where(times % 960 < 120, 2.0, 0.02)


TRACES: dict[str, Callable[[Floats, float], Floats]] = {
    "steady": steady,
    "daily": daily,
    "spiky": spiky,
    "adversarial": adversarial,
}


def make(name: str, fleet: int, duration: float, scale: float, random: np.random.Generator) -> Trace:
    """`scale`: of all work, for models that take longer."""
    load = TRACES[name]
    rate = fleet / mean_seconds(scale)
    most = float(load(np.linspace(0, duration, 10_000), duration).max()) * rate
    times = np.sort(random.uniform(0, duration, random.poisson(most * duration)))
    times = times[random.uniform(0, most, len(times)) < load(times, duration) * rate]
    medians, shares = (np.array(column) for column in zip(*KINDS, strict=True))
    kinds: Any = random.choice(len(KINDS), len(times), p=shares)
    if name == "adversarial":  # a burst of short ones, then one of long ones: no count of videos tells them apart
        flood = (times // 960) % 2 == 0
        kinds = np.where(flood, 0, 2)
    seconds = scale * medians[kinds] * random.lognormal(0, SIGMA, len(times))
    return Trace(times, seconds, seconds * random.lognormal(0, ESTIMATE_SIGMA, len(times)), duration)
