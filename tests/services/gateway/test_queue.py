"""Who begins next, against a real Temporal: one tenant's many, priorities, deadlines, workers that die."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from soundstage.video.v1 import video_pb2 as pb

from services.gateway.admission import Admission
from services.gateway.database import Database
from services.gateway.order import Share
from services.gateway.settings import GatewaySettings
from tests.services.gateway.conftest import PROMPT, Scene, serving_gateway, working
from tests.support.stages import StageServers

MANY = 40
"""Enough to be many; `python -m bench gateway` does it with 500."""


def request(priority: int = pb.PRIORITY_STANDARD, seconds: float | None = None) -> pb.CreateVideoRequest:
    made = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT), priority=priority)
    if seconds is not None:
        made.deadline.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return made


def began(stages: StageServers) -> list[str]:
    """In the order in which their first stage did."""
    return [request.attempt.video_id for request in stages.encode.requests]


async def test_many_videos_of_one_tenant_delay_anothers_by_at_most_one(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
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
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
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
