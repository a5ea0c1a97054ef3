"""The one place that says which state may follow which.

    QUEUED ──▶ RUNNING ──▶ SUCCEEDED | FAILED
       │          │
       │          ▼
       └────▶ CANCELLING ──▶ CANCELLED

QUEUED may end at once: CANCELLED, because nothing had begun; FAILED, when its deadline passed or its work was lost.
Terminal states never change. A video that is CANCELLING can only become CANCELLED, whatever its last stage reported.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from libs.errors import Internal
from services.gateway.video import State, Status, VideoError, VideoResult

NEXT: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLING, State.CANCELLED, State.FAILED}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLING}),
    State.CANCELLING: frozenset({State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
TERMINAL = frozenset(state for state, following in NEXT.items() if not following)
ACTIVE = frozenset(State) - TERMINAL


def advance(old: Status, new: Status) -> Status:
    """Returns `new` if it may follow `old`; raises Internal for a step that the table does not allow."""
    if old.state in TERMINAL:
        raise Internal(f"a video that is {old.state} cannot change", reason="STATE_NOT_ALLOWED")
    if new.state is not old.state and new.state not in NEXT[old.state]:
        raise Internal(f"a video that is {old.state} cannot become {new.state}", reason="STATE_NOT_ALLOWED")
    return new


def concluded(old: Status, now: datetime, result: VideoResult | None, error: VideoError | None) -> Status:
    """The terminal status that the end of the work leads to.

    A video being cancelled ends CANCELLED; else an error means FAILED and a result means SUCCEEDED. With neither,
    the work was stopped without a CancelVideo (for example by an operator): FAILED.
    """
    ended = replace(old, end_time=now)
    if old.state is State.CANCELLING:
        return replace(ended, state=State.CANCELLED)
    if error is None and result is not None:
        return replace(ended, state=State.SUCCEEDED, result=result)
    stopped = VideoError("STOPPED", "the work was stopped by the operator; create the video again", old.stage)
    return replace(ended, state=State.FAILED, error=error or stopped)
