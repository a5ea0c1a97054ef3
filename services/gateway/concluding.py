"""Brings a video to its terminal state: the same for the workflow's last step and for the sweeper."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from libs.errors import NotFound
from services.gateway import states
from services.gateway.attempts import Attempts
from services.gateway.records import Records
from services.gateway.video import Stage, Status, VideoError, VideoKey, VideoResult

MOST_ATTEMPTS_TOLD = 20


async def conclude(records: Records, attempts: Attempts, key: VideoKey, error: VideoError | None) -> None:
    """`error`: why there is no result. A video that has ended already, or was deleted, stays as it is."""
    muxed = await attempts.winner(key, Stage.MUX)
    result = VideoResult(muxed.refs["video"], muxed.refs["poster"], muxed.duration_seconds) if muxed else None
    error = await _with_causes(attempts, key, error)

    def ended(status: Status) -> Status:
        if status.state in states.TERMINAL:
            return status
        return states.concluded(status, datetime.now(UTC), result, error)

    with suppress(NotFound):
        await records.change(key, ended)


async def _with_causes(attempts: Attempts, key: VideoKey, error: VideoError | None) -> VideoError | None:
    if error is None or error.stage is None:
        return error
    failed = await attempts.failed(key, error.stage)
    return replace(error, attempts=tuple(failed[-MOST_ATTEMPTS_TOLD:]))
