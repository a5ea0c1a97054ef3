"""The tries of each stage, and which of them counts: the first that finishes. They tell the speed, too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from libs.artifacts import Ref
from libs.errors import NotFound
from services.gateway.database import Database
from services.gateway.progress import work_units
from services.gateway.retries import WORKER_LOST
from services.gateway.speeds import Measured, Speeds
from services.gateway.tables import AttemptRow
from services.gateway.video import AttemptError, Spec, Stage, Video, VideoKey, ref_to_json

MEASURED_VIDEOS = 16
"""How many of the model's last results its speeds are taken from."""

STARTED, FINISHED, SUPERSEDED = "STARTED", "FINISHED", "SUPERSEDED"
INNOCENT = frozenset({FINISHED, SUPERSEDED, "STOPPED", "WORKER_STOPPING"})
"""Outcomes that are no failures: such attempts count for nothing when another is considered."""

MOST_REASON_CHARACTERS, MOST_MESSAGE_CHARACTERS = 64, 400
LOST_MESSAGE = "the process that ran this attempt was lost"


@dataclass(frozen=True)
class Output:
    """What a finished attempt gave. `duration_seconds` is the length of the video; only `mux` knows it."""

    refs: Mapping[str, Ref]
    start_time: datetime
    seconds: float
    load_seconds: float = 0.0
    gpu_seconds: float = 0.0
    duration_seconds: float = 0.0
    attempts: int = field(default=1)


class Attempts:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, video: Video, stage: Stage, attempt: str, number: int) -> None:
        row = AttemptRow(
            video_id=video.key.video_id,
            stage=stage.value,
            attempt=attempt,
            model=video.spec.model,
            work_units=work_units(stage, video.spec.shape),
            start_time=datetime.now(UTC),
            end_time=None,
            outcome=STARTED,
            number=number,
            message="",
            won=0,
            seconds=0.0,
            load_seconds=0.0,
            gpu_seconds=0.0,
            duration_seconds=0.0,
            outputs={},
        )
        async with self._database.write() as session:
            session.add(row)

    async def finish(self, key: VideoKey, stage: Stage, attempt: str, output: Output) -> Output:
        """Records the output if no other attempt of the stage has finished; returns the output that counts.

        Doing it again does no harm. Raises NotFound when the video was deleted meanwhile.
        """
        try:
            async with self._database.write() as session:
                row = await session.get(AttemptRow, (key.video_id, stage.value, attempt))
                if row is None:
                    raise NotFound("the video was deleted while it was made", reason="VIDEO_NOT_FOUND")
                winner = await _winning_row(session, key, stage)
                if winner is None:
                    _write(row, output, FINISHED)
                    row.won = 1
                elif winner.attempt != attempt:
                    _write(row, output, SUPERSEDED)
        except IntegrityError:  # another process recorded its attempt at this very moment
            await self.end(key, stage, attempt, SUPERSEDED)
        return await self.winner(key, stage) or output

    async def failed(self, key: VideoKey, stage: Stage) -> list[AttemptError]:
        """The stage's attempts that gave nothing, oldest first. One that never said how it ended was lost."""
        query = (
            select(AttemptRow)
            .where(AttemptRow.video_id == key.video_id, AttemptRow.stage == stage.value)
            .where(AttemptRow.outcome.not_in(INNOCENT))
            .order_by(AttemptRow.number, AttemptRow.start_time)
        )
        async with self._database.read() as session:
            return [_failure(row) for row in await session.scalars(query)]

    async def unended(self, key: VideoKey, stage: Stage) -> list[str]:
        """Attempts whose worker never said how they ended."""
        query = select(AttemptRow.attempt).where(
            AttemptRow.video_id == key.video_id, AttemptRow.stage == stage.value, AttemptRow.outcome == STARTED
        )
        async with self._database.read() as session:
            return list(await session.scalars(query))

    async def end(self, key: VideoKey, stage: Stage, attempt: str, outcome: str, message: str = "") -> None:
        """Records that an attempt ended without an output; `outcome` is the reason."""
        one = (
            AttemptRow.video_id == key.video_id,
            AttemptRow.stage == stage.value,
            AttemptRow.attempt == attempt,
        )
        async with self._database.write() as session:
            values = {
                "outcome": outcome[:MOST_REASON_CHARACTERS],
                "message": message[:MOST_MESSAGE_CHARACTERS],
                "end_time": datetime.now(UTC),
            }
            await session.execute(update(AttemptRow).where(*one).values(values))

    async def winner(self, key: VideoKey, stage: Stage) -> Output | None:
        async with self._database.read() as session:
            return await _winner(session, key, stage)

    async def speeds(self, model: str) -> Speeds:
        """Measured on those of the model's last videos whose stages were all done in one go."""
        last = (
            select(AttemptRow.video_id, AttemptRow.end_time.label("end"))
            .where(AttemptRow.model == model, AttemptRow.stage == Stage.MUX.value, AttemptRow.won == 1)
            .order_by(AttemptRow.end_time.desc())
            .limit(MEASURED_VIDEOS)
            .subquery()
        )
        query = (
            select(
                AttemptRow.video_id,
                AttemptRow.stage,
                AttemptRow.number,
                AttemptRow.work_units,
                AttemptRow.start_time,
                AttemptRow.end_time,
                AttemptRow.seconds,
                AttemptRow.load_seconds,
            )
            .join(last, last.c.video_id == AttemptRow.video_id)
            .where(AttemptRow.won == 1)
            .order_by(last.c.end.desc())
        )
        videos: defaultdict[str, Measured] = defaultdict(Measured)
        async with self._database.read() as session:
            for video_id, stage, number, units, start, end, seconds, load_seconds in await session.execute(query):
                if stage == Stage.DENOISE.value and number > 1:
                    continue  # it may have gone on from a checkpoint
                span = start.timestamp(), (end or start).timestamp()
                videos[video_id].add(Stage(stage), units, span, seconds, load_seconds)
        return Speeds([sample for video in videos.values() if (sample := video.sample())])

    async def expected(self, spec: Spec) -> dict[Stage, float]:
        return (await self.speeds(spec.model)).expected(spec.shape)


async def _winning_row(session: AsyncSession, key: VideoKey, stage: Stage) -> AttemptRow | None:
    query = select(AttemptRow).where(AttemptRow.video_id == key.video_id, AttemptRow.stage == stage.value)
    return await session.scalar(query.where(AttemptRow.won == 1))


async def _winner(session: AsyncSession, key: VideoKey, stage: Stage) -> Output | None:
    row = await _winning_row(session, key, stage)
    if row is None:
        return None
    of_stage = (AttemptRow.video_id == key.video_id, AttemptRow.stage == stage.value)
    attempts = await session.scalar(select(func.count()).where(*of_stage, AttemptRow.start_time <= row.start_time))
    return Output(
        refs={name: Ref(**ref) for name, ref in row.outputs.items()},
        start_time=row.start_time,
        seconds=row.seconds,
        load_seconds=row.load_seconds,
        gpu_seconds=row.gpu_seconds,
        duration_seconds=row.duration_seconds,
        attempts=max(attempts or 1, 1),
    )


def _failure(row: AttemptRow) -> AttemptError:
    if row.outcome == STARTED:
        return AttemptError(row.number, WORKER_LOST, LOST_MESSAGE, row.start_time)
    return AttemptError(row.number, row.outcome, row.message, row.start_time)


def _write(row: AttemptRow, output: Output, outcome: str) -> None:
    row.end_time = datetime.now(UTC)
    row.outcome = outcome
    row.seconds = output.seconds
    row.load_seconds = output.load_seconds
    row.gpu_seconds = output.gpu_seconds
    row.duration_seconds = output.duration_seconds
    row.outputs = {name: ref_to_json(ref) for name, ref in output.refs.items()}
