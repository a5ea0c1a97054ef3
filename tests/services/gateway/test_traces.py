"""One trace a video: real gateway, real Temporal, light stages, and a real OTLP receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from soundstage.video.v1 import video_pb2 as pb

from libs.errors import FailedPrecondition, Unavailable
from libs.serving import ServiceSettings, tracing
from services.gateway.settings import GatewaySettings
from services.gateway.stages import Stage
from tests.services.gateway.conftest import PROMPT, Scene, serving_gateway, working
from tests.support.collector import Collector, attributes, collecting
from tests.support.stages import StageServers

CALLERS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, CALLER = bytes.fromhex(CALLERS.split("-")[1]), bytes.fromhex(CALLERS.split("-")[2])
CREATE = "soundstage.video.v1.VideoService/CreateVideo"
SERVER_SPANS = {
    Stage.ENCODE: "soundstage.encoder.v1.EncoderService/Encode",
    Stage.DENOISE: "soundstage.denoiser.v1.DenoiserService/Denoise",
    Stage.RENDER: "soundstage.muxer.v1.MuxerService/Render",
    Stage.SYNTHESIZE: "soundstage.audio.v1.AudioService/Synthesize",
    Stage.MUX: "soundstage.muxer.v1.MuxerService/Mux",
}


async def created(scene: Scene) -> str:
    request = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT))
    return (await scene.stub.CreateVideo(request, metadata=(("traceparent", CALLERS),), timeout=60)).video.name


async def ended(scene: Scene, collector: Collector, name: str) -> pb.Video:
    """The video's own span is told of after its end."""
    video = (await scene.watch(name))[-1].video
    await asyncio.to_thread(collector.wait_for, "video")
    return video


async def test_a_video_is_one_trace_that_goes_on_from_its_caller(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    """Its first attempt at denoising is lost. What still waits when everything stops is sent, too."""
    stages.denoise.errors = [Unavailable("going away", reason="STOPPING")]
    with collecting() as collector:
        with tracing(ServiceSettings(otlp_endpoint=collector.url), "test"):
            async with serving_gateway(settings_of(stages), stages, tmp_path / "artifacts") as scene:
                video = await ended(scene, collector, await created(scene))
        assert_one_trace(collector)
        assert_attempts_are_told(collector)
        assert_no_prompts(collector, video)


def assert_one_trace(collector: Collector) -> None:
    create, whole = collector.one(CREATE), collector.one("video")
    assert attributes(whole)["soundstage.state"] == "SUCCEEDED"
    assert (create.trace_id, create.parent_span_id) == (TRACE, CALLER)
    assert (whole.trace_id, whole.parent_span_id) == (TRACE, create.span_id)
    assert collector.children(whole) == [
        "stage encode",
        "stage denoise",
        "stage denoise",
        "stage render",
        "stage synthesize",
        "stage mux",
    ]
    for stage, name in SERVER_SPANS.items():
        for attempt in collector.named(f"stage {stage}"):
            (call,) = [one for one in collector.named(f"call {stage}") if one.parent_span_id == attempt.span_id]
            (served,) = [one for one in collector.named(name) if one.parent_span_id == call.span_id]
            assert {attempt.trace_id, call.trace_id, served.trace_id} == {TRACE}
            assert (call.kind, served.kind) == (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER)
            assert attributes(served)["soundstage.attempt_id"] == attributes(call)["soundstage.attempt_id"]


def assert_attempts_are_told(collector: Collector) -> None:
    first, second = sorted(collector.named("stage denoise"), key=lambda one: one.start_time_unix_nano)
    assert [attributes(one)["soundstage.attempt"] for one in (first, second)] == [1, 2]
    assert attributes(first)["error.type"] == "STOPPING"
    assert [one.status.code for one in (first, second)] == [Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET]
    lost, _ = sorted(collector.named(SERVER_SPANS[Stage.DENOISE]), key=lambda one: one.start_time_unix_nano)
    assert attributes(lost)["rpc.response.status_code"] == "UNAVAILABLE"


def assert_no_prompts(collector: Collector, video: pb.Video) -> None:
    of_video = [one for one in collector.spans if "soundstage.video_id" in attributes(one)]
    assert {attributes(one)["soundstage.video_id"] for one in of_video} == {video.name.removeprefix("videos/")}
    assert {one.name for one in of_video} >= {CREATE, "video", "stage mux", *SERVER_SPANS.values()}
    assert not any(PROMPT.encode() in body for body in collector.bodies)


async def test_another_worker_goes_on_in_the_same_trace_which_tells_the_failure(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    """The first one stops while the stage is at work; the next stage fails."""
    api, worker = (settings_of(stages, role=role) for role in ("api", "worker"))
    stages.denoise.step_seconds = 10.0
    stages.render.errors = [FailedPrecondition("the latents do not fit", reason="LATENTS_UNFITTING")]
    with collecting() as collector, tracing(ServiceSettings(otlp_endpoint=collector.url), "test"):
        async with serving_gateway(api, stages, tmp_path / "artifacts") as scene:
            async with working(worker):
                name = await created(scene)
                assert await asyncio.to_thread(stages.denoise.began.wait, 60)
            stages.denoise.step_seconds = 0.0
            async with working(worker):
                await ended(scene, collector, name)
    attempts = sorted(collector.named("stage denoise"), key=lambda one: one.start_time_unix_nano)
    assert [attributes(one)["soundstage.attempt"] for one in attempts] == [1, 2]
    assert attributes(attempts[0])["error.type"] == "WORKER_STOPPING"
    whole = collector.one("video")
    assert {one.parent_span_id for one in attempts} == {whole.span_id}
    assert {one.trace_id for one in (*attempts, whole)} == {TRACE}
    assert (whole.status.code, whole.status.message) == (Status.STATUS_CODE_ERROR, "LATENTS_UNFITTING")
    assert attributes(whole)["soundstage.state"] == "FAILED"
