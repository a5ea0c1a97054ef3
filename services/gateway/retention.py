"""How long a video's files stay after its end, and which of them go when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from services.gateway.video import Collected, State, Status


class Why(StrEnum):
    """Why a file is deleted."""

    INTERMEDIATE = "INTERMEDIATE"
    """A SUCCEEDED video no longer needs it: conditioning, latents, the silent picture, the first frame, …"""
    RESULT = "RESULT"
    """The result's time is over."""
    UNFINISHED = "UNFINISHED"
    """Of a video that FAILED or was CANCELLED."""
    ORPHAN = "ORPHAN"
    """There is no such video, or its files were deleted and this one was written afterwards."""


@dataclass(frozen=True)
class Rule:
    """For videos that ended in one of `states`, from `after` (None: ever) to `before`, and are not yet `becomes`."""

    why: Why
    states: tuple[State, ...]
    not_yet: tuple[Collected, ...]
    after: datetime | None
    before: datetime
    becomes: Collected


@dataclass(frozen=True)
class Retention:
    """Times from a video's end; for orphans, from when they were last written. Records outlive their files."""

    intermediates: timedelta = timedelta(hours=6)
    results: timedelta = timedelta(days=30)
    unfinished: timedelta = timedelta(days=1)
    orphans: timedelta = timedelta(days=1)
    records: timedelta = timedelta(days=365)

    def rules(self, now: datetime) -> Iterator[Rule]:
        """Each video falls under one at most, so that a list of what would be deleted counts nothing twice."""
        some, whole = (Collected.NOTHING, Collected.INTERMEDIATES), Collected.EVERYTHING
        expired = now - self.results
        yield Rule(Why.RESULT, (State.SUCCEEDED,), some, None, expired, whole)
        nothing, part = (Collected.NOTHING,), Collected.INTERMEDIATES
        yield Rule(Why.INTERMEDIATE, (State.SUCCEEDED,), nothing, expired, now - self.intermediates, part)
        ended = (State.FAILED, State.CANCELLED)
        yield Rule(Why.UNFINISHED, ended, nothing, None, now - self.unfinished, whole)

    def delete_time(self, status: Status) -> datetime | None:
        """When the files of a SUCCEEDED video's result go; None for other videos."""
        if status.state is not State.SUCCEEDED or status.end_time is None:
            return None
        return status.end_time + self.results
