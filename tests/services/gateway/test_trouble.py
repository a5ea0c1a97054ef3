"""Cancelling, failing, retrying, repeating, and processes that vanish."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path

from soundstage.video.v1 import video_pb2 as pb
from soundstage.video.v1 import video_pb2_grpc as rpc

from libs.errors import AlreadyExists, FailedPrecondition, Internal, ResourceExhausted, Unavailable
from libs.serving import open_channel, running
from services.gateway.runner import TemporalRunner
from services.gateway.settings import GatewaySettings
from services.gateway.video import VideoKey
from services.gateway.wiring import Gateway
from tests.services.gateway.conftest import PROMPT, Scene, refused, serving_gateway, working
from tests.support.forwarder import forwarding
from tests.support.stages import StageServers


async def test_cancel_reaches_the_stage_and_is_confirmed_afterwards(scene: Scene) -> None:
    denoise = scene.stages.denoise
    denoise.steps, denoise.step_seconds = 100, 0.2
    name = (await scene.create()).name
    assert await asyncio.to_thread(denoise.began.wait, 15)

    answer = await scene.stub.CancelVideo(pb.CancelVideoRequest(name=name, reason="changed my mind"))
    assert answer.video.state == pb.STATE_CANCELLING
    events = await scene.watch(name)
    seen = [event.video.state for event in events]
    assert pb.STATE_CANCELLING in seen
    assert seen[-1] == pb.STATE_CANCELLED
    assert len(denoise.stopped) == 1
    assert not scene.stages.render.requests
    again = await scene.stub.CancelVideo(pb.CancelVideoRequest(name=name))
    assert again.video == events[-1].video


async def test_no_step_runs_after_a_video_is_cancelled(scene: Scene) -> None:
    """Its step takes 3 s and cannot be broken off: the video is CANCELLED after that, not before."""
    denoise = scene.stages.denoise
    denoise.steps, denoise.step_seconds, denoise.deaf = 100, 3.0, True
    name = (await scene.create()).name
    assert await asyncio.to_thread(denoise.began.wait, 30)
    await scene.stub.CancelVideo(pb.CancelVideoRequest(name=name))
    video = (await scene.watch(name))[-1].video
    assert video.state == pb.STATE_CANCELLED
    assert len(denoise.stopped_times) == 1
    assert denoise.stopped_times[0] <= video.end_time.ToNanoseconds() / 1e9


async def test_a_broken_connection_does_not_confirm_that_the_work_has_stopped(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    """It breaks while the stage is told to stop, in a step of 3 s: the gateway asks again over another one."""
    denoise = stages.denoise
    denoise.steps, denoise.step_seconds, denoise.deaf = 100, 3.0, True
    with forwarding(stages.address) as forwarder:
        settings = settings_of(stages, denoiser_address=f"127.0.0.1:{forwarder.port}")
        async with serving_gateway(settings, stages, tmp_path / "artifacts") as scene:
            name = (await scene.create()).name
            assert await asyncio.to_thread(denoise.began.wait, 30)
            await scene.stub.CancelVideo(pb.CancelVideoRequest(name=name))
            await asyncio.to_thread(denoise.asked_to_stop.wait, 30)
            forwarder.cut()
            video = (await scene.watch(name))[-1].video
    assert video.state == pb.STATE_CANCELLED
    assert len(denoise.stopped_times) == 1
    assert denoise.stopped_times[0] <= video.end_time.ToNanoseconds() / 1e9


async def test_cancelling_before_anything_began_is_immediate_and_final(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    """Work that would start all the same, because a start was under way, finds the video at its end."""
    api, worker = settings_of(stages, role="api"), settings_of(stages, role="worker", sweep_quiet_seconds=60)
    accepting = Gateway(api)
    start, accepting._runner.start = accepting._runner.start, _away  # type: ignore[method-assign, assignment]
    async with (
        running(api, accepting.endpoints, start=accepting.start, stop=accepting.stop) as server,
        open_channel(server.address, retries=False) as channel,
        working(worker),
    ):
        scene = Scene(rpc.VideoServiceStub(channel), stages, api, tmp_path / "artifacts")
        name = await not_started(scene)
        answer = await scene.stub.CancelVideo(pb.CancelVideoRequest(name=name))
        assert answer.video.state == pb.STATE_CANCELLED
        video = await accepting._records.get(VideoKey("local", name.removeprefix("videos/")))
        await start(video)
        client = await accepting._runner.connect(1)
        await client.get_workflow_handle(video.key.video_id).result()
        assert await scene.get(name) == answer.video
    assert not stages.encode.requests


async def test_a_video_whose_work_was_ended_from_outside_fails(scene: Scene) -> None:
    scene.stages.encode.steps, scene.stages.encode.step_seconds = 1000, 0.2
    name = (await scene.create()).name
    assert await asyncio.to_thread(scene.stages.encode.began.wait, 15)
    runner = TemporalRunner(scene.settings.temporal_address, "default", scene.settings.temporal_task_queue)
    client = await runner.connect(5)
    await client.get_workflow_handle(name.removeprefix("videos/")).terminate("by an operator")
    video = (await scene.watch(name))[-1].video
    assert video.state == pb.STATE_FAILED
    assert video.error.reason in {"WORK_LOST", "STOPPED"}


async def test_a_finished_video_cannot_be_cancelled(scene: Scene) -> None:
    name = (await scene.create()).name
    await scene.watch(name)
    error = await refused(scene.stub.CancelVideo(pb.CancelVideoRequest(name=name)))
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "VIDEO_ALREADY_FINISHED"
    assert (await scene.get(name)).state == pb.STATE_SUCCEEDED


async def test_a_failing_stage_fails_the_video_with_its_reason(scene: Scene) -> None:
    scene.stages.render.errors = [FailedPrecondition("the latents do not fit", reason="LATENTS_UNFITTING")]
    video = (await scene.watch((await scene.create()).name))[-1].video
    assert video.state == pb.STATE_FAILED
    error = video.error
    assert (error.reason, error.message, error.stage) == (
        "LATENTS_UNFITTING",
        "the latents do not fit",
        pb.STAGE_RENDER,
    )
    assert [(one.number, one.reason) for one in error.attempts] == [(1, "LATENTS_UNFITTING")]
    assert len(scene.stages.render.requests) == 1
    assert not video.HasField("result")


async def test_an_away_stage_is_tried_again_under_another_attempt(scene: Scene) -> None:
    scene.stages.denoise.errors = [Unavailable("going away", reason="STOPPING")]
    video = (await scene.watch((await scene.create()).name))[-1].video
    assert video.state == pb.STATE_SUCCEEDED
    attempts = [request.attempt.attempt for request in scene.stages.denoise.requests]
    assert len(set(attempts)) == 2
    assert [timing.attempts for timing in video.stage_timings] == [1, 2, 1, 1, 1]
    assert len(scene.stages.encode.requests) == 1


async def test_an_internal_error_is_tried_three_times_and_the_cause_of_each_attempt_is_told(scene: Scene) -> None:
    """An outage in between does not count."""
    gate = [Internal(f"gate {number}", reason="GATE_FAILED") for number in range(9)]
    scene.stages.mux.errors = [gate[0], Unavailable("going away", reason="STOPPING"), *gate[1:]]
    video = (await scene.watch((await scene.create()).name))[-1].video
    assert video.state == pb.STATE_FAILED
    assert video.error.reason == "GATE_FAILED"
    assert [(one.number, one.reason, one.message) for one in video.error.attempts] == [
        (1, "GATE_FAILED", "gate 0"),
        (2, "STOPPING", "going away"),
        (3, "GATE_FAILED", "gate 1"),
        (4, "GATE_FAILED", "gate 2"),
    ]
    assert len(scene.stages.mux.requests) == 4


async def test_a_repeated_request_gives_the_same_video_and_another_body_is_refused(scene: Scene) -> None:
    request = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT), request_id=str(uuid.uuid4()))
    answers = await asyncio.gather(*(scene.stub.CreateVideo(request) for _ in range(5)))
    names = {answer.video.name for answer in answers}
    assert len(names) == 1
    assert len({answer.video.spec.seed for answer in answers}) == 1
    await scene.watch(names.pop())
    assert len(scene.stages.encode.requests) == 1

    explicit = pb.CreateVideoRequest(request_id=request.request_id.upper(), priority=pb.PRIORITY_STANDARD)
    explicit.spec.CopyFrom(request.spec)
    assert (await scene.stub.CreateVideo(explicit)).video.state == pb.STATE_SUCCEEDED

    request.spec.seed = 5
    error = await refused(scene.stub.CreateVideo(request))
    assert isinstance(error, AlreadyExists)
    assert error.reason == "REQUEST_ID_REUSED"
    assert len((await scene.stub.ListVideos(pb.ListVideosRequest())).videos) == 1


async def test_too_many_queued_videos_are_refused(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    """The api role alone: nothing is worked on, so the videos stay queued."""
    settings = settings_of(stages, role="api", max_queued_videos=2)
    async with serving_gateway(settings, stages, tmp_path) as scene:
        stub = scene.stub
        request = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT))
        queued = [(await stub.CreateVideo(request)).video for _ in range(2)]
        assert [video.progress.queue_position for video in queued] == [0, 1]
        quota = await stub.GetQuota(pb.GetQuotaRequest())
        assert (quota.tenant, quota.max_queued_videos, quota.queued_videos, quota.active_videos) == ("local", 2, 2, 2)
        assert not quota.HasField("credits")
        error = await refused(stub.CreateVideo(request))
        assert isinstance(error, ResourceExhausted)
        assert error.reason == "TOO_MANY_QUEUED_VIDEOS"


async def test_a_video_whose_work_was_never_started_is_started_by_a_worker(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    api, worker = settings_of(stages, role="api"), settings_of(stages, role="worker")
    accepting = Gateway(api)
    accepting._runner.start = _away  # type: ignore[method-assign, assignment]
    async with (
        running(api, accepting.endpoints, start=accepting.start, stop=accepting.stop) as server,
        open_channel(server.address, retries=False) as channel,
        working(worker),
    ):
        scene = Scene(rpc.VideoServiceStub(channel), stages, api, tmp_path / "artifacts")
        events = await scene.watch(await not_started(scene))
        assert events[-1].video.state == pb.STATE_SUCCEEDED


async def test_a_video_is_accepted_only_when_its_work_exists(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    """Refused while Temporal is away; a repeat gives the same video, and what cannot be repeated is withdrawn."""
    api = settings_of(stages, role="api")
    accepting = Gateway(api)
    start, accepting._runner.start = accepting._runner.start, _away  # type: ignore[method-assign, assignment]
    async with (
        running(api, accepting.endpoints, start=accepting.start, stop=accepting.stop) as server,
        open_channel(server.address, retries=False) as channel,
    ):
        scene = Scene(rpc.VideoServiceStub(channel), stages, api, tmp_path / "artifacts")
        request = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT), request_id=str(uuid.uuid4()))
        for _ in range(2):
            assert (await refused(scene.stub.CreateVideo(request))).reason == "TEMPORAL_UNAVAILABLE"
        (kept,) = (await scene.stub.ListVideos(pb.ListVideosRequest())).videos
        assert kept.state == pb.STATE_QUEUED

        await refused(scene.stub.CreateVideo(pb.CreateVideoRequest(spec=request.spec)))
        (withdrawn, _) = (await scene.stub.ListVideos(pb.ListVideosRequest())).videos
        assert (withdrawn.state, withdrawn.error.reason) == (pb.STATE_FAILED, "NOT_STARTED")

        accepting._runner.start = start  # type: ignore[method-assign]
        assert (await scene.stub.CreateVideo(request)).video.name == kept.name
        client = await accepting._runner.connect(1)
        await client.get_workflow_handle(kept.name.removeprefix("videos/")).describe()


async def test_a_worker_that_stops_hands_its_video_to_the_next(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    stages.denoise.steps, stages.denoise.step_seconds = 200, 0.2
    api, worker = settings_of(stages, role="api"), settings_of(stages, role="worker")
    async with serving_gateway(api, stages, tmp_path / "artifacts") as scene:
        async with working(worker):
            name = (await scene.create()).name
            assert await asyncio.to_thread(stages.denoise.began.wait, 15)
        stages.denoise.steps = 2
        async with working(worker):
            video = (await scene.watch(name))[-1].video
    assert video.state == pb.STATE_SUCCEEDED
    assert len(stages.denoise.stopped) == 1
    assert len(stages.encode.requests) == 1


async def not_started(scene: Scene) -> str:
    """A video whose acceptance ended between its record and its work."""
    request = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT), request_id=str(uuid.uuid4()))
    assert isinstance(await refused(scene.stub.CreateVideo(request)), Unavailable)
    (video,) = (await scene.stub.ListVideos(pb.ListVideosRequest())).videos
    assert video.state == pb.STATE_QUEUED
    return video.name


async def _away(_video: object) -> None:
    raise Unavailable("Temporal is away", reason="TEMPORAL_UNAVAILABLE")
