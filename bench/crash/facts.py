"""What the database, the journals and the processes say after a case: whether the promises were kept."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from soundstage.video.v1 import video_pb2 as pb
from sqlalchemy import select

from bench.crash.stack import Stack
from services.gateway.database import Database
from services.gateway.ledger import Kind
from services.gateway.tables import AttemptRow, LedgerRow, VideoRow
from services.gateway.video import State

END_SECONDS = 300.0
"""Within this time of the last blow, every video is at its end; a busy machine needs most of it."""
ORPHAN_SECONDS = 20.0


@dataclass
class Facts:
    """`lost`: accepted videos that did not end. `unexpected`: those that ended otherwise than the case says.

    `repeated`: stages that ran again after their output was recorded, which must never be. `unrecorded`: stages that
    finished and ran again because whoever should have recorded it was killed first. `orphans`: attempts that were still
    at work after their video's end. `unsettled`: videos whose credits do not add up, and tenants whose ledger does not.
    """

    states: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unrecorded: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        return not (self.lost or self.unexpected or self.repeated or self.orphans or self.unsettled)


def facts_of(stack: Stack, video_ids: Sequence[str], expected: str = "SUCCEEDED") -> Facts:
    """Waits for the end of each video first."""
    facts, states = Facts(), Counter[str]()
    deadline = time.monotonic() + END_SECONDS
    for video_id in video_ids:
        video = stack.wait(video_id, max(deadline - time.monotonic(), 1.0))
        state = "LOST" if video is None else pb.State.Name(video.state).removeprefix("STATE_")
        states[state] += 1
        if state not in ("SUCCEEDED", "FAILED", "CANCELLED"):
            facts.lost.append(f"{video_id}: {state}")
        elif state != expected:
            facts.unexpected.append(f"{video_id}: {state}, {video.error.reason if video else ''}")
    facts.states = dict(states)
    facts.orphans = _orphans(stack, video_ids)
    facts.repeated = _repeated(stack, video_ids)
    facts.unrecorded = _finished_twice(stack, video_ids)
    facts.unsettled = asyncio.run(_unsettled(stack.database_url, video_ids))
    return facts


def _orphans(stack: Stack, video_ids: Sequence[str]) -> list[str]:
    deadline = time.monotonic() + ORPHAN_SECONDS
    while True:
        at_work = [entry for entry in stack.journal.at_work(stack.alive()) if entry.video_id in video_ids]
        if not at_work or time.monotonic() >= deadline:
            return [f"{entry.video_id}: {entry.attempt}" for entry in at_work]
        time.sleep(0.1)


def _finished_twice(stack: Stack, video_ids: Sequence[str]) -> list[str]:
    finished = Counter((e.video_id, e.stage) for e in stack.journal.entries() if e.point == "finish")
    return [f"{video_id}: {stage}" for (video_id, stage), n in finished.items() if n > 1 and video_id in video_ids]


def _repeated(stack: Stack, video_ids: Sequence[str]) -> list[str]:
    """Attempts that reached a stage after the output of another attempt was recorded."""
    recorded = asyncio.run(_recorded(stack.database_url, video_ids))
    begins = {e.attempt: e for e in stack.journal.entries() if e.point == "begin"}
    late = []
    for (video_id, stage), when in recorded.items():
        of_stage = [e for e in begins.values() if (e.video_id, e.stage) == (video_id, stage)]
        late += [f"{video_id}: {e.attempt}" for e in of_stage if e.time > when.timestamp()]
    return late


async def _recorded(url: str, video_ids: Sequence[str]) -> dict[tuple[str, str], datetime]:
    """When each stage's output was recorded. One output counts for each stage; two would be a fault of the fence."""
    database = Database(url)
    query = select(AttemptRow).where(AttemptRow.won == 1, AttemptRow.video_id.in_(video_ids))
    async with database.read() as session:
        rows = list(await session.scalars(query.order_by(AttemptRow.video_id, AttemptRow.stage)))
    await database.close()
    by_stage = {key: list(some) for key, some in groupby(rows, key=lambda row: (row.video_id, row.stage))}
    assert all(len(some) == 1 for some in by_stage.values())
    return {key: some[0].end_time for key, some in by_stage.items() if some[0].end_time}


async def _unsettled(url: str, video_ids: Sequence[str]) -> list[str]:
    """Each tenant's balances are the sums of its entries and never below nothing; each video's entries are its cost."""
    database = Database(url)
    async with database.read() as session:
        entries = list(await session.scalars(select(LedgerRow).order_by(LedgerRow.tenant, LedgerRow.number)))
        videos = list(await session.scalars(select(VideoRow).where(VideoRow.video_id.in_(video_ids))))
    await database.close()
    wrong = []
    for tenant, of_tenant in groupby(entries, key=lambda entry: entry.tenant):
        balance = 0
        for number, entry in enumerate(of_tenant, 1):
            balance += entry.amount_millicredits
            if entry.number != number or entry.balance_millicredits != balance or balance < 0:
                wrong.append(f"{tenant}: entry {entry.number}")
    return wrong + [video.video_id for video in videos if not _is_settled(video, entries)]


def _is_settled(video: VideoRow, entries: Sequence[LedgerRow]) -> bool:
    own = [entry for entry in entries if entry.reference == video.video_id]
    reserved = [-entry.amount_millicredits for entry in own if entry.kind == Kind.RESERVED.value]
    paid = -sum(entry.amount_millicredits for entry in own)
    whole = len(reserved) == 1 and 0 <= paid <= reserved[0] and paid == video.cost_millicredits
    return whole and (paid == reserved[0]) == (video.state == State.SUCCEEDED.value)
