from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from soundstage.encoder.v1 import encoder_pb2_grpc as encoder_rpc
from soundstage.video.v1 import video_pb2, video_pb2_grpc

from libs.errors import Unauthenticated
from libs.serving import ServiceSettings, caller, error_from_rpc, open_channel, running
from tests.libs.serving.echo import EchoEncoder, echo_video, encode_request, encoder_endpoint, video_endpoint


async def admit(metadata: Mapping[str, str]) -> str:
    await asyncio.sleep(0)  # as every real one lets others run
    if "who" not in metadata:
        raise Unauthenticated("say who you are", reason="CREDENTIALS_MISSING")
    return metadata["who"]


async def test_each_call_knows_its_own_caller(settings: ServiceSettings, registry: CollectorRegistry) -> None:
    """Unary calls and streams, at the same time; and nobody is asked where nobody is told apart."""
    seen: list[tuple[str, str]] = []

    async def note(context: Any) -> None:
        said = dict(context.invocation_metadata())["who"]
        await asyncio.sleep(0.01)
        seen.append((said, caller()))

    video = replace(video_endpoint(echo_video(note)), admit=admit)
    encoder = replace(encoder_endpoint(EchoEncoder(before=note)), admit=admit)
    async with (
        running(settings, [video, encoder], registry=registry) as server,
        open_channel(server.address) as channel,
    ):
        calls: list[Any] = []
        for number in range(20):
            who = (("who", f"tenant-{number}"),)
            stub = video_pb2_grpc.VideoServiceStub(channel)
            calls.append(stub.GetVideo(video_pb2.GetVideoRequest(name="videos/1"), metadata=who, timeout=30))
            stream = encoder_rpc.EncoderServiceStub(channel).Encode(encode_request(), metadata=who, timeout=30)
            calls.append(_read(stream))
        await asyncio.gather(*calls)
    assert len(seen) == 40
    assert all(said == known for said, known in seen)


async def _read(stream: Any) -> None:
    async for _ in stream:
        pass


async def test_who_calls_is_asked_before_what(settings: ServiceSettings, registry: CollectorRegistry) -> None:
    async def never(_: Any) -> None:
        raise AssertionError

    endpoint = replace(video_endpoint(echo_video(never)), admit=admit)
    async with running(settings, [endpoint], registry=registry) as server, open_channel(server.address) as channel:
        request = video_pb2.GetVideoRequest(name="../not a video's name")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await video_pb2_grpc.VideoServiceStub(channel).GetVideo(request, timeout=30)
    error = error_from_rpc(caught.value)
    assert isinstance(error, Unauthenticated)
    assert error.reason == "CREDENTIALS_MISSING"


async def test_an_endpoint_that_admits_everybody_has_no_caller(
    settings: ServiceSettings, registry: CollectorRegistry
) -> None:
    async def ask(_: Any) -> None:
        with pytest.raises(LookupError):
            caller()

    endpoint = video_endpoint(echo_video(ask))
    async with running(settings, [endpoint], registry=registry) as server, open_channel(server.address) as channel:
        stub = video_pb2_grpc.VideoServiceStub(channel)
        await stub.GetVideo(video_pb2.GetVideoRequest(name="videos/1"), timeout=30)
