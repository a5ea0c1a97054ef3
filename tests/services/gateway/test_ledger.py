"""The ledger balances, whatever happens in whichever order: credits are neither lost nor doubled."""

from __future__ import annotations

import asyncio
import shutil
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError

from libs.artifacts import Ref
from libs.catalog import Catalog
from libs.errors import Internal, ResourceExhausted
from services.gateway.changes import Changes
from services.gateway.database import Database
from services.gateway.ledger import Ledger
from services.gateway.price import price_millicredits
from services.gateway.progress import fraction
from services.gateway.records import Records
from services.gateway.states import TERMINAL, concluded
from services.gateway.tables import LedgerRow, VideoRow
from services.gateway.tenants import Allowance, Tenants
from services.gateway.video import (
    AudioIntent,
    Preset,
    Priority,
    Spec,
    Stage,
    StageTiming,
    State,
    Status,
    Video,
    VideoError,
    VideoKey,
    VideoResult,
)
from tests.support.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
REF = Ref("memory://v", "video/mp4", 1, "0" * 64)
SPEC = Spec("diorama", "a fire", "", 5.0, 60, 256, 256, 12.0, 25, 3.0, 1, Preset.STANDARD, AudioIntent.FULL)
TENANTS = ("acme", "globex")


@dataclass
class Bank:
    """Records and ledger on one database, whose clock the test moves."""

    database: Database
    days: int = 0
    accepted: dict[str, Video] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tenants = Tenants(self.database, Allowance(max_queued_videos=1000, daily_credits=100))
        self.ledger = Ledger(200, now=lambda: NOON + timedelta(days=self.days))
        self.records = Records(self.database, Changes(), self.tenants, self.ledger)

    async def create(self, tenant: str, cost: int, request_id: str = "") -> Video | None:
        """None when it is refused for want of credits."""
        video = Video(
            VideoKey(tenant, str(uuid.uuid4())),
            SPEC,
            None,
            Priority.STANDARD,
            None,
            request_id,
            "hash",
            NOON,
            cost_millicredits=cost,
        )
        try:
            stored, is_new = await self.records.accept(video)
        except ResourceExhausted as error:
            if (error.reason, error.subject) != ("CREDITS_EXHAUSTED", f"tenant:{tenant}"):
                raise
            return None
        if is_new:
            self.accepted[stored.key.video_id] = stored
        return stored

    async def grant(self, tenant: str, amount: int) -> None:
        async with self.database.write() as session:
            await self.tenants.lock(session, tenant)
            await self.ledger.grant(session, tenant, amount, str(uuid.uuid4()))

    async def change(self, index: int, new: Status) -> None:
        """What the states do not allow, and what changes nothing, is part of the game."""
        if not self.accepted:
            return
        video = list(self.accepted.values())[index % len(self.accepted)]
        with suppress(Internal):
            changed = await self.records.change(video.key, lambda old: _follows(old, new))
            self.accepted[video.key.video_id] = changed

    async def check(self) -> None:
        async with self.database.read() as session:
            rows = list(await session.scalars(select(LedgerRow).order_by(LedgerRow.tenant, LedgerRow.number)))
        for tenant in TENANTS:
            mine = [row for row in rows if row.tenant == tenant]
            assert [row.number for row in mine] == list(range(1, len(mine) + 1))
            balance = 0
            for row in mine:
                balance += row.amount_millicredits
                assert row.balance_millicredits == balance >= 0
            given_ = sum(row.amount_millicredits for row in mine if row.kind in ("FIRST", "DAILY", "GRANTED"))
            spent = sum(v.cost_millicredits for v in self.accepted.values() if v.key.tenant == tenant)
            assert given_ == balance + spent
        of_videos = {(row.kind, row.reference): row for row in rows if row.kind in ("RESERVED", "REFUNDED")}
        assert {reference for _, reference in of_videos} == set(self.accepted)
        for video_id, video in self.accepted.items():
            reserved, refunded = of_videos["RESERVED", video_id], of_videos.get(("REFUNDED", video_id))
            price, back = -reserved.amount_millicredits, refunded.amount_millicredits if refunded else 0
            used = fraction(video, video.status) if video.status.state in (State.FAILED, State.CANCELLED) else 1
            assert video.cost_millicredits == round(price * used) == price - back
            assert {row.tenant for row in (reserved, refunded) if row} == {video.key.tenant}


def _follows(old: Status, new: Status) -> Status:
    """`new` over what is known; an end as the activities write it, which may come more than once."""
    if old.state in TERMINAL and new.state in TERMINAL:
        return old
    if new.state is State.SUCCEEDED:
        return concluded(old, NOON, VideoResult(REF, REF, 5.0), None)
    if new.state in TERMINAL:
        return concluded(old, NOON, None, VideoError("X", "x"))
    ended = tuple(timing for timing in new.timings if timing not in old.timings)
    return replace(old, state=new.state, stage=new.stage, step=new.step, total_steps=4, timings=old.timings + ended)


def _timings(count: int) -> tuple[StageTiming, ...]:
    return tuple(StageTiming(stage, NOON, 1.0, 0.0, 0.0, 1) for stage in list(Stage)[:count])


costs = st.integers(1, 120_000)
tenants = st.sampled_from(TENANTS)
statuses = st.one_of(
    st.builds(Status, st.sampled_from([State.CANCELLING, State.CANCELLED, State.FAILED, State.SUCCEEDED])),
    st.builds(
        lambda stage, step: Status(State.RUNNING, list(Stage)[stage], step, 4, timings=_timings(stage)),
        st.integers(0, 4),
        st.integers(0, 4),
    ),
)
steps = st.one_of(
    st.tuples(st.just("create"), tenants, costs),
    st.tuples(st.just("race"), tenants, st.lists(costs, min_size=2, max_size=4)),
    st.tuples(st.just("repeat"), tenants, costs),
    st.tuples(st.just("change"), st.integers(0, 20), statuses),
    st.tuples(st.just("change"), st.integers(0, 20), statuses),
    st.tuples(st.just("grant"), tenants, st.integers(1, 300_000)),
    st.tuples(st.just("day"), st.none(), st.none()),
)


async def _play(url: str, game: list[tuple]) -> None:
    async with opened(url) as bank:
        for kind, first, second in game:
            match kind:
                case "create":
                    await bank.create(first, second)
                case "race":
                    await asyncio.gather(*(bank.create(first, cost) for cost in second))
                case "repeat":
                    request_id = str(uuid.uuid4())
                    made = await asyncio.gather(*(bank.create(first, second, request_id) for _ in range(3)))
                    assert len({video and video.key for video in made}) == 1
                case "change":
                    await bank.change(first, second)
                case "grant":
                    await bank.grant(first, second)
                case "day":
                    bank.days += 1
        await bank.check()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Bank]:
    database = Database(url)
    try:
        yield Bank(database)
    finally:
        await database.close()


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "empty.db"

    async def migrate() -> None:
        async with opened(f"sqlite:///{path}") as bank:
            await bank.database.migrate()

    asyncio.run(migrate())
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
async def fresh(request: pytest.FixtureRequest, migrated: Path, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(migrated, tmp_path / 'bank.db')}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create(f"test-{uuid.uuid4()}")
    async with opened(url) as bank:
        await bank.database.migrate()
    return url


@settings(max_examples=25, deadline=None)
@given(st.lists(steps, max_size=25))
def test_the_ledger_balances_after_any_sequence_of_events(migrated: Path, game: list[tuple]) -> None:
    path = migrated.with_name(f"{uuid.uuid4()}.db")
    shutil.copy(migrated, path)
    asyncio.run(_play(f"sqlite:///{path}", game))


async def test_repeats_at_once_are_one_video_even_where_it_is_the_last_that_can_be_paid(fresh: str) -> None:
    async with opened(fresh) as bank:
        for cost in (100_000, 90_000):
            request_id = str(uuid.uuid4())
            made = await asyncio.gather(*(bank.create("acme", cost, request_id) for _ in range(8)))
            assert len({video and video.key for video in made} - {None}) == 1
            assert None not in made
        await bank.check()


async def test_ends_creates_and_grants_at_once_keep_the_balance(fresh: str) -> None:
    async with opened(fresh) as bank:
        made = [await bank.create("acme", 10_000) for _ in range(8)]
        await asyncio.gather(
            *(bank.change(index, Status(State.FAILED)) for index in range(8) for _ in range(2)),
            *(bank.create("acme", 10_000) for _ in range(4)),
            *(bank.grant("acme", 1000) for _ in range(4)),
        )
        assert None not in made
        await bank.check()


async def test_of_many_creates_at_once_only_those_that_can_be_paid_are_accepted(fresh: str) -> None:
    async with opened(fresh) as bank:
        made = await asyncio.gather(*(bank.create("acme", 30_000) for _ in range(10)))
        assert sum(video is not None for video in made) == 6
        await bank.check()


async def test_credits_come_with_the_first_call_and_once_on_later_days(fresh: str) -> None:
    async with opened(fresh) as bank:
        await bank.grant("acme", 1000)
        seen = []
        for days in (0, 0, 1, 1, 5):
            bank.days = days
            quota = await bank.records.quota("acme", charges=True)
            seen.append(quota.millicredits)
        assert seen == [201_000, 201_000, 301_000, 301_000, 401_000]
        assert quota.next_grant == datetime(2026, 3, 7, tzinfo=UTC)


async def test_a_video_pays_for_the_work_that_was_done(fresh: str) -> None:
    async with opened(fresh) as bank:
        video, before = await bank.create("acme", 10_000), told("CANCELLED")
        assert video is not None
        await bank.change(0, Status(State.RUNNING, Stage.DENOISE, 2, 4, timings=_timings(1)))
        await bank.change(0, Status(State.CANCELLING, Stage.DENOISE, 2, 4))
        await bank.change(0, Status(State.CANCELLED))
        cancelled = await bank.records.get(video.key)
        assert told("CANCELLED") == pytest.approx(before + 3.8)
        assert cancelled.cost_millicredits == round(10_000 * (0.03 + 0.70 / 2))
        unbegun = await bank.create("acme", 10_000)
        assert unbegun is not None
        await bank.change(1, Status(State.FAILED))
        assert (await bank.records.get(unbegun.key)).cost_millicredits == 0
        await bank.records.delete(video.key)
        await bank.check()


def told(state: str) -> float:
    """Credits that the metrics say such videos cost."""
    labels = {"model": SPEC.model, "state": state}
    return REGISTRY.get_sample_value("soundstage_gateway_cost_credits_total", labels) or 0.0


async def test_what_was_written_cannot_be_changed(fresh: str) -> None:
    async with opened(fresh) as bank:
        await bank.create("acme", 5)
        for statement in (update(LedgerRow).values(amount_millicredits=0), delete(LedgerRow)):
            with pytest.raises(DBAPIError, match="append-only"):
                async with bank.database.write() as session:
                    await session.execute(statement)
        await bank.check()


async def test_a_process_that_is_killed_leaves_no_reservation_without_its_video(fresh: str) -> None:
    """Creates and ends as fast as they go, cut off in the middle; then nothing is half done."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.services.gateway.spending", fresh, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(200):
        for _ in range(20):
            assert await process.stdout.readline() == b"ended\n"
    process.kill()
    await process.wait()
    async with opened(fresh) as bank:
        async with bank.database.read() as session:
            known = list(await session.scalars(select(VideoRow.video_id)))
        assert len(known) >= 20
        bank.accepted = {video_id: await bank.records.get(VideoKey("acme", video_id)) for video_id in known}
        await bank.check()


def test_the_price_follows_length_size_and_steps() -> None:
    card = Catalog.read(Path("models")).get("diorama")
    assert price_millicredits(SPEC, card) == 10_000
    assert price_millicredits(replace(SPEC, num_frames=120), card) == 20_000
    assert price_millicredits(replace(SPEC, width=128), card) == 5_000
    assert price_millicredits(replace(SPEC, num_inference_steps=50), card) == 17_000
    assert price_millicredits(replace(SPEC, num_frames=1, num_inference_steps=1), card) > 0
