"""Who begins next, against a real Temporal: one tenant's many, priorities, deadlines, workers that die."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from soundstage.video.v1 import video_pb2 as pb
from sqlalchemy import func, select

from services.gateway.admission import Admission
from services.gateway.changes import Changes
from services.gateway.database import Database
from services.gateway.dispatcher import Dispatcher
from services.gateway.ledger import Ledger
from services.gateway.order import Share
from services.gateway.records import Records
from services.gateway.runner import Work
from services.gateway.settings import GatewaySettings
from services.gateway.tables import QueueRow, WorkerRow
from services.gateway.tenants import Allowance, Tenants
from services.gateway.video import AudioIntent, Preset, Priority, Spec, State, Status, Video, VideoKey
from tests.services.gateway.conftest import PROMPT, Scene, gateway_process, serving_gateway, working
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.stages import StageServers
from tests.support.waiting import until

__all__ = ["postgres_server"]

MANY = 40
"""Enough to be many; `python -m bench gateway` does it with 500."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gateway.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.create(f"test-{uuid.uuid4()}")


def request(priority: int = pb.PRIORITY_STANDARD, seconds: float | None = None) -> pb.CreateVideoRequest:
    made = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT), priority=priority)
    if seconds is not None:
        made.deadline.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return made


def began(stages: StageServers) -> list[str]:
    """In the order in which their first stage did."""
    return [request.attempt.video_id for request in stages.encode.requests]


async def test_many_videos_of_one_tenant_delay_anothers_by_at_most_one(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path, database: str
) -> None:
    settings_of = partial(settings_of, database_url=database)
    async with AsyncExitStack() as stack:
        a, b = [
            await stack.enter_async_context(
                serving_gateway(
                    settings_of(stages, role="api", tenant=tenant, max_queued_videos=MANY),
                    stages,
                    tmp_path / "artifacts",
                )
            )
            for tenant in ("a", "b")
        ]
        for _ in range(MANY // 20):
            await asyncio.gather(*(a.stub.CreateVideo(request(), timeout=120) for _ in range(20)))
        async with working(settings_of(stages, role="worker", max_concurrent_stages=1)):
            assert await asyncio.to_thread(stages.mux.began.wait, 200)
            before = len(began(stages))
            answer = await b.stub.CreateVideo(request(), timeout=60)
            position, ahead = answer.video.progress.queue_position, len(began(stages)) - before
            assert (await b.watch(answer.video.name))[-1].video.state == pb.STATE_SUCCEEDED
            order = began(stages)
    # One may have begun while B's request was on its way; from then on, one that is at work and one that had its turn.
    assert position <= 2
    assert order.index(answer.video.name.removeprefix("videos/")) - before <= ahead + 2
    firsts = [stages.encode, stages.denoise, stages.render, stages.synthesize]
    assert len({len(stage.requests) for stage in firsts}) <= 2, "fresh videos passed those that had begun"


async def test_priorities_and_deadlines_order_a_tenants_queue(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path, database: str
) -> None:
    settings_of = partial(settings_of, database_url=database)
    settings = settings_of(stages, role="api", max_concurrent_stages=1)
    async with serving_gateway(settings, stages, tmp_path / "artifacts") as scene:
        asked = {
            "batch": request(pb.PRIORITY_BATCH),
            "usual": request(),
            "late": request(seconds=3500),
            "soon": request(seconds=600),
            "screen": request(pb.PRIORITY_INTERACTIVE),
        }
        made = {name: (await scene.stub.CreateVideo(asked[name])).video for name in asked}
        wanted = ["screen", "soon", "late", "usual", "batch"]
        async with working(settings_of(stages, role="worker", max_concurrent_stages=1)):
            for video in made.values():
                assert (await scene.watch(video.name))[-1].video.state == pb.STATE_SUCCEEDED
    names = {video.name.removeprefix("videos/"): name for name, video in made.items()}
    assert [names[video_id] for video_id in began(stages)] == wanted


async def test_a_video_whose_deadline_passes_in_the_queue_fails_and_says_so(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    stages.denoise.steps, stages.denoise.step_seconds = 1000, 0.2
    settings = settings_of(stages, max_concurrent_stages=1)
    async with serving_gateway(settings, stages, tmp_path / "artifacts") as scene:
        first = await scene.create()
        assert await asyncio.to_thread(stages.denoise.began.wait, 30)
        late = (await scene.stub.CreateVideo(request(seconds=1.5))).video
        video = (await scene.watch(late.name))[-1].video
        assert video.state == pb.STATE_FAILED
        assert video.error.reason == "DEADLINE_PASSED"
        assert "deadline" in video.error.message
        assert not video.HasField("start_time")
        await scene.stub.CancelVideo(pb.CancelVideoRequest(name=first.name))
        await scene.watch(first.name)
    assert len(stages.encode.requests) == 1


async def test_a_queued_video_is_cancelled_at_once_and_gives_way(scene: Scene) -> None:
    """Both places are taken; of two that wait, the cancelled one never begins."""
    stages = scene.stages
    stages.denoise.steps, stages.denoise.step_seconds = 1000, 0.2
    running = [await scene.create() for _ in range(2)]
    for video in running:
        await scene.until(video.name, pb.STATE_RUNNING, 30)
    waiting = [await scene.create() for _ in range(2)]
    answer = await scene.stub.CancelVideo(pb.CancelVideoRequest(name=waiting[0].name))
    assert answer.video.state == pb.STATE_CANCELLED
    assert answer.video.HasField("end_time")
    for video in running:
        await scene.stub.CancelVideo(pb.CancelVideoRequest(name=video.name))
    stages.denoise.steps = 2
    assert (await scene.watch(waiting[1].name))[-1].video.state == pb.STATE_SUCCEEDED
    assert waiting[0].name.removeprefix("videos/") not in began(stages)


async def test_a_worker_that_is_killed_loses_its_places_and_its_video_is_made_by_another(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    """A process, with kill -9: it gives nothing back. Its lease ends; another worker takes over, with its own place."""
    stages.denoise.steps, stages.denoise.step_seconds = 1000, 0.2
    told = {"max_concurrent_stages": 1, "worker_silence_seconds": 2}
    api, worker = settings_of(stages, role="api", **told), settings_of(stages, role="worker", **told)
    database = Database(api.database_url)
    admission = Admission(database, 300, Share())
    async with serving_gateway(api, stages, tmp_path / "artifacts") as scene:
        with gateway_process(worker, tmp_path) as (process, _):
            first, second = await scene.create(), await scene.create()
            assert await asyncio.to_thread(stages.denoise.began.wait, 180)
            assert (await admission.queue()).places == 1
            process.kill()
            process.wait(60)
        async with asyncio.timeout(30):
            while (await admission.queue()).places:  # noqa: ASYNC110 - time alone ends a lease
                await asyncio.sleep(0.1)
        assert (await scene.get(second.name)).state == pb.STATE_QUEUED
        stages.denoise.steps, stages.denoise.step_seconds = 2, 0.0
        async with working(worker):
            made = [(await scene.watch(video.name))[-1].video for video in (first, second)]
    await database.close()
    assert [video.state for video in made] == [pb.STATE_SUCCEEDED] * 2
    assert [timing.attempts for timing in made[0].stage_timings] == [1, 2, 1, 1, 1]
    assert made[1].start_time.ToNanoseconds() >= made[0].end_time.ToNanoseconds()


SPEC = Spec("diorama", "a campfire", "", 1.0, 12, 256, 256, 12.0, 4, 5.0, 1, Preset.FAST, AudioIntent.FULL)
RUSH, PLACES, WORKERS = 40, 3, 4


class Ending:
    """Work that is over as soon as it may begin."""

    def __init__(self, records: Records) -> None:
        self._records, self.begun = records, list[str]()

    async def start(self, video: Video) -> None: ...

    async def cancel(self, key: VideoKey) -> Work: ...  # type: ignore[empty-body]

    async def state(self, key: VideoKey) -> Work: ...  # type: ignore[empty-body]

    async def admit(self, key: VideoKey) -> None:
        self.begun.append(key.video_id)
        await self._records.change(key, lambda _: Status(State.FAILED))


async def test_workers_that_hand_out_places_at_once_hand_out_no_more_than_there_are(database: str) -> None:
    """Each has connections of its own; that none sees a place which another gives away is the database's lock."""
    databases = [Database(database) for _ in range(WORKERS)]
    await databases[0].migrate()
    allowance = Allowance(max_queued_videos=RUSH)
    endings = [Ending(Records(one, Changes(), Tenants(one, allowance), Ledger(200))) for one in databases]
    for index in range(RUSH):
        key, now = VideoKey(f"tenant-{index % 3}", str(uuid.uuid4())), datetime.now(UTC)
        await endings[0]._records.accept(Video(key, SPEC, None, Priority.STANDARD, None, "", "0" * 64, now))
    admissions = [Admission(one, 300, Share()) for one in databases]
    await admissions[0].renew("one for all", PLACES, 600)
    workers = [Dispatcher(a, ending, 0, 60) for a, ending in zip(admissions, endings, strict=True)]
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            async with databases[0].read() as session:
                count = select(func.count()).where(QueueRow.admit_time.is_not(None))
                most = max(most, await session.scalar(count) or 0)

    async def hand_out(worker: Dispatcher) -> None:
        while sum(len(ending.begun) for ending in endings) < RUSH:
            await worker.dispatch()

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(120):
        await asyncio.gather(*(hand_out(worker) for worker in workers))
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    begun = [video_id for ending in endings for video_id in ending.begun]
    assert len(begun) == len(set(begun)) == RUSH
    assert 0 < most <= PLACES
    for one in databases:
        await one.close()


class Mute:
    """Work that nobody can tell anything: no call returns."""

    def __init__(self) -> None:
        self.told = list[VideoKey]()

    async def start(self, video: Video) -> None: ...

    async def cancel(self, key: VideoKey) -> Work: ...  # type: ignore[empty-body]

    async def state(self, key: VideoKey) -> Work: ...  # type: ignore[empty-body]

    async def admit(self, key: VideoKey) -> None:
        self.told.append(key)
        await asyncio.Event().wait()


async def test_a_worker_keeps_its_lease_while_nobody_can_be_told_to_begin(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'gateway.db'}")
    await database.migrate()
    records = Records(database, Changes(), Tenants(database, Allowance(max_queued_videos=PLACES)), Ledger(200))
    for _ in range(PLACES):
        key, now = VideoKey("a", str(uuid.uuid4())), datetime.now(UTC)
        await records.accept(Video(key, SPEC, None, Priority.STANDARD, None, "", "0" * 64, now))
    mute = Mute()

    async def lease() -> datetime | None:
        async with database.read() as session:
            return await session.scalar(select(WorkerRow.expire_time))

    dispatcher = Dispatcher(Admission(database, 300, Share()), mute, PLACES, 2.0)
    await dispatcher.start()
    running = asyncio.create_task(dispatcher.run())
    await until(lambda: len(mute.told) == PLACES)
    before = await lease()
    async with asyncio.timeout(60):
        while await lease() == before:  # noqa: ASYNC110 - another task renews it
            await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await database.close()


async def test_a_class_that_waited_too_long_has_its_turn(database: str) -> None:
    """Of one tenant: BATCH that has waited twice `ageing_seconds` passes INTERACTIVE, once; then it waits again."""
    one = Database(database)
    await one.migrate()
    records = Records(one, Changes(), Tenants(one, Allowance(max_queued_videos=10)), Ledger(200))
    now, ids = datetime.now(UTC), dict[str, str]()
    for priority, waited_seconds in [(Priority.BATCH, 700), (Priority.BATCH, 650), *[(Priority.INTERACTIVE, 1)] * 3]:
        key, created = VideoKey("a", str(uuid.uuid4())), now - timedelta(seconds=waited_seconds)
        ids[key.video_id] = priority.value
        await records.accept(Video(key, SPEC, None, priority, None, "", "0" * 64, created))
    admission = Admission(one, 300, Share())
    order = []
    for places in range(1, len(ids) + 1):
        await admission.renew("worker", places, 600)
        order += [ids[key.video_id] for key in await admission.admit()]
    assert order == ["BATCH", *["INTERACTIVE"] * 3, "BATCH"]
    await one.close()


async def test_a_dead_workers_places_are_lost_and_an_admitted_video_keeps_its_own(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'gateway.db'}")
    await database.migrate()
    admission = Admission(database, 300, Share())
    await admission.renew("lives", 2, 60)
    await admission.renew("died", 3, -1)
    await admission.renew("lives", 2, 60)
    assert (await admission.queue()).places == 2
    await admission.leave("lives")
    assert (await admission.queue()).places == 0
    await database.close()
