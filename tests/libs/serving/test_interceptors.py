"""What a caller gets from a real server, for calls that fail in every way."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from soundstage.encoder.v1 import encoder_pb2 as pb
from soundstage.encoder.v1 import encoder_pb2_grpc as rpc
from soundstage.video.v1 import video_pb2, video_pb2_grpc

from libs.errors import FieldViolation, Internal, InvalidRequest, NotFound, SoundstageError
from libs.serving import ServiceSettings, Stage, error_from_rpc, running
from tests.libs.serving.echo import (
    ENCODER,
    EchoEncoder,
    echo_video,
    encode_request,
    encoder_endpoint,
    video_endpoint,
)

SECRET = "the password is 1234"


def _raising(error: BaseException) -> Any:
    async def before(context: Any) -> None:
        raise error

    return before


async def _aborting(context: Any) -> None:
    await context.abort(grpc.StatusCode.DATA_LOSS, "said so itself")


async def _answer(before: Any, kind: str) -> grpc.aio.AioRpcError:
    """The error that a unary or a streaming call ends with, whose servicer runs ``before``."""
    endpoints = [encoder_endpoint(EchoEncoder(before=before)), video_endpoint(echo_video(before))]
    async with (
        running(ServiceSettings(grace_seconds=1), endpoints, registry=CollectorRegistry()) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = _get(channel) if kind == "unary" else _read(channel, encode_request())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return caught.value


async def _get(channel: grpc.aio.Channel, timeout_seconds: float = 10) -> video_pb2.GetVideoResponse:
    request = video_pb2.GetVideoRequest(name="videos/1")
    return await video_pb2_grpc.VideoServiceStub(channel).GetVideo(request, timeout=timeout_seconds)


async def _read(channel: grpc.aio.Channel, request: pb.EncodeRequest) -> list[pb.EncodeResponse]:
    return [event async for event in rpc.EncoderServiceStub(channel).Encode(request, timeout=60)]


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_our_errors_are_told(kind: str) -> None:
    raised = NotFound("model 'x' is not known", reason="MODEL_UNKNOWN", model="x")
    error = error_from_rpc(await _answer(_raising(raised), kind))
    assert type(error) is NotFound
    assert (str(error), error.reason, error.metadata) == (str(raised), "MODEL_UNKNOWN", {"model": "x"})


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_other_exceptions_are_logged_and_not_told(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    answer = await _answer(_raising(RuntimeError(SECRET)), kind)
    assert (answer.code(), answer.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert SECRET not in str(answer.trailing_metadata())
    assert error_from_rpc(answer).reason == "INTERNAL"
    (record,) = [record for record in caplog.records if record.name == "libs.serving.interceptors"]
    assert SECRET in str(record.exc_info)
    assert record.levelno == logging.ERROR


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_a_servicers_own_abort_passes(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    answer = await _answer(_aborting, kind)
    assert (answer.code(), answer.details()) == (grpc.StatusCode.DATA_LOSS, "said so itself")
    assert not [record for record in caplog.records if record.name == "libs.serving.interceptors"]


async def test_an_error_in_the_middle_of_a_stream_follows_its_events(
    settings: ServiceSettings, registry: CollectorRegistry
) -> None:
    def work(stage: Stage) -> None:
        stage.progress(1, 2)
        raise Internal("the disk is gone", reason="DISK")

    async with (
        running(settings, [encoder_endpoint(EchoEncoder(work))], registry=registry) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = rpc.EncoderServiceStub(channel).Encode(encode_request(), timeout=60)
        events = aiter(call)
        assert (await anext(events)).progress.step == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(events)
    assert error_from_rpc(caught.value).reason == "DISK"


async def _refused(call: Any) -> SoundstageError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return error_from_rpc(caught.value)


async def test_requests_that_break_their_rules_never_reach_the_servicer(
    settings: ServiceSettings, registry: CollectorRegistry
) -> None:
    async def never(context: Any) -> None:
        raise AssertionError

    video = echo_video(never)
    endpoints = [encoder_endpoint(EchoEncoder(before=never)), video_endpoint(video)]
    async with (
        running(settings, endpoints, registry=registry) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        videos = video_pb2_grpc.VideoServiceStub(channel)
        nested = await _refused(_read(channel, encode_request("", attempt={"tenant": "Upper", "video_id": "v"})))
        unary = await _refused(videos.GetVideo(video_pb2.GetVideoRequest(name="vid"), timeout=60))
        repeated = await _refused(
            videos.ListVideos(
                video_pb2.ListVideosRequest(states=[video_pb2.STATE_QUEUED, video_pb2.STATE_UNSPECIFIED]), timeout=60
            )
        )
    assert isinstance(nested, InvalidRequest)
    assert nested.reason == "INVALID_FIELD"
    assert [violation.field for violation in nested.violations] == ["attempt.tenant", "attempt.attempt", "prompt"]
    assert FieldViolation("prompt", "must be at least 1 characters") in nested.violations
    assert isinstance(unary, InvalidRequest)
    assert unary.violations[0].field == "name"
    assert isinstance(repeated, InvalidRequest)
    assert repeated.violations[0].field == "states[1]"
    assert video.calls == 0


async def test_calls_are_counted_by_code_and_timed(settings: ServiceSettings, registry: CollectorRegistry) -> None:
    async def slow(context: Any) -> None:
        await asyncio.sleep(5)

    def count(service: str, method: str, code: str) -> float | None:
        labels = {"grpc_service": service, "grpc_method": method, "grpc_code": code}
        return registry.get_sample_value("grpc_server_handled_total", labels)

    endpoints = [encoder_endpoint(EchoEncoder()), video_endpoint(echo_video(slow))]
    async with (
        running(settings, endpoints, registry=registry) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        for _ in range(3):
            await _read(channel, encode_request())
        await _refused(_read(channel, encode_request("")))
        with pytest.raises(grpc.aio.AioRpcError):
            await _get(channel, timeout_seconds=0.2)
        await asyncio.sleep(0.2)
    assert count(ENCODER, "Encode", "OK") == 3
    assert count(ENCODER, "Encode", "INVALID_ARGUMENT") == 1
    # The server may see the caller hang up a moment before the deadline itself.
    video = "soundstage.video.v1.VideoService"
    assert (count(video, "GetVideo", "DEADLINE_EXCEEDED") or 0) + (count(video, "GetVideo", "CANCELLED") or 0) == 1
    timed = {"grpc_service": ENCODER, "grpc_method": "Encode"}
    assert registry.get_sample_value("grpc_server_handling_seconds_count", timed) == 4


async def test_cancelling_the_call_stops_the_work(settings: ServiceSettings, registry: CollectorRegistry) -> None:
    stopped = threading.Event()

    def work(stage: Stage) -> None:
        try:
            for step in range(1000):
                stage.progress(step + 1, 1000)
                time.sleep(0.01)
        finally:
            stopped.set()

    servicer = EchoEncoder(work)
    async with (
        running(settings, [encoder_endpoint(servicer)], registry=registry) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = rpc.EncoderServiceStub(channel).Encode(encode_request(), timeout=60)
        async for event in call:
            if event.progress.step >= 5:
                call.cancel()
                break
        assert await asyncio.to_thread(stopped.wait, 2)
        await asyncio.wait_for(servicer.ended.wait(), 2)
