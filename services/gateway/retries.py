"""Which failed attempts of a stage are worth another, how many, and after how long.

                            for example                                       attempts
    never                   refused input, an altered artifact                1
    the stage's own fault   INTERNAL                                          3 with the same reason
    perhaps the video's     the stage or the worker died over it              5 with the same reason
    nobody's                no stage to be reached, store or database away    `stage_away_attempts`, in all

A video that brings down whatever works on it must not go on to bring down everything; one that only met an outage must
not fail for it. Waits double from `first_seconds` to `MOST_SECONDS`, and are as long as the service asks for
(RetryInfo), each with jitter, so that what was stopped together does not come back together.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from libs.errors import Internal, ResourceExhausted, SoundstageError, Unavailable
from services.gateway.video import AttemptError

STAGE_LOST, STAGE_SILENT, WORKER_LOST = "STAGE_LOST", "STAGE_SILENT", "WORKER_LOST"
DEADLY = frozenset({STAGE_LOST, STAGE_SILENT, WORKER_LOST})
"""Reasons of attempts that may have ended because of what they worked on."""

DEADLY_ATTEMPTS = 5
FAULTY_ATTEMPTS = 3

MOST_SECONDS = 30.0
MOST_ASKED_SECONDS = 600.0
"""A service that asks for more is asked again after this time all the same."""
JITTER = 0.25


@dataclass(frozen=True)
class Retries:
    """`away_attempts` at the longest wait are the outage that a video survives."""

    away_attempts: int
    first_seconds: float

    def may_follow(self, error: SoundstageError, earlier: Sequence[AttemptError]) -> bool:
        """Whether another attempt may follow one that failed with `error`; `earlier` are those that failed before."""
        alike = 1 + sum(attempt.reason == error.reason for attempt in earlier)
        if isinstance(error, Internal):
            return alike < FAULTY_ATTEMPTS
        if not isinstance(error, Unavailable | ResourceExhausted):
            return False
        if error.reason in DEADLY:
            return alike < DEADLY_ATTEMPTS
        return 1 + len(earlier) < self.away_attempts

    def wait(self, number: int, error: SoundstageError) -> timedelta:
        """Before the attempt that follows attempt `number`, counted from 1, which failed with `error`."""
        seconds = min(self.first_seconds * 2 ** min(number - 1, 30), MOST_SECONDS)
        asked = error.retry_seconds or 0.0 if isinstance(error, Unavailable | ResourceExhausted) else 0.0
        at_least = min(asked, MOST_ASKED_SECONDS) * random.uniform(1, 1 + JITTER)
        return timedelta(seconds=max(seconds * random.uniform(1 - JITTER, 1 + JITTER), at_least))


def too_deadly(earlier: Sequence[AttemptError]) -> bool:
    """Whether so many workers died over this that no other should try."""
    return sum(attempt.reason == WORKER_LOST for attempt in earlier) >= DEADLY_ATTEMPTS
