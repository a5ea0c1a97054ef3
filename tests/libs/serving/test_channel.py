from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from soundstage.video.v1 import video_pb2, video_pb2_grpc

from libs.errors import NotFound, SoundstageError, Unavailable
from libs.serving import ServiceSettings, open_channel, running
from tests.libs.serving.echo import echo_video, video_endpoint

BUSY = Unavailable("the store is away; try again", reason="STORE_UNAVAILABLE")


async def _call(address: str, *, retries: bool = True) -> None:
    async with open_channel(address, retries=retries) as channel:
        request = video_pb2.GetVideoRequest(name="videos/1")
        await video_pb2_grpc.VideoServiceStub(channel).GetVideo(request, timeout=60)


async def _calls_made(error: SoundstageError, times: int, *, retries: bool = True) -> tuple[int, grpc.StatusCode]:
    """How often a server is called that fails ``times`` times, and how it ends."""

    async def failing(context: Any) -> None:
        if servicer.calls <= times:
            raise error

    servicer = echo_video(failing)
    settings = ServiceSettings(grace_seconds=1)
    async with running(settings, [video_endpoint(servicer)], registry=CollectorRegistry()) as server:
        try:
            await _call(server.address, retries=retries)
        except grpc.aio.AioRpcError as failure:
            return servicer.calls, failure.code()
    return servicer.calls, grpc.StatusCode.OK


async def test_an_unavailable_server_is_asked_again() -> None:
    assert await _calls_made(BUSY, times=2) == (3, grpc.StatusCode.OK)


async def test_asking_again_has_an_end() -> None:
    assert await _calls_made(BUSY, times=100) == (4, grpc.StatusCode.UNAVAILABLE)


async def test_a_caller_with_retries_of_its_own_asks_once() -> None:
    assert await _calls_made(BUSY, times=100, retries=False) == (1, grpc.StatusCode.UNAVAILABLE)


async def test_other_errors_are_final() -> None:
    assert await _calls_made(NotFound("no such video", reason="X"), times=100) == (1, grpc.StatusCode.NOT_FOUND)


async def test_nobody_there_is_found_out_soon(unused_port: int) -> None:
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _call(f"127.0.0.1:{unused_port}")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - began < 10
