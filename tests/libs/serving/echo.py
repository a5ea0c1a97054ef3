"""Small services on the encoder's contract (stream) and the video's (unary), told by the test what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from soundstage.artifact.v1 import artifact_pb2
from soundstage.encoder.v1 import encoder_pb2 as pb
from soundstage.encoder.v1 import encoder_pb2_grpc as rpc
from soundstage.video.v1 import video_pb2, video_pb2_grpc
from typing_extensions import override

from libs.serving import Endpoint, Heartbeat, Progress, Stage, run_stage

ENCODER = "soundstage.encoder.v1.EncoderService"
VIDEO = "soundstage.video.v1.VideoService"
"""Full names of the two services."""


def encode_request(prompt: str = "fire", **changes: Any) -> pb.EncodeRequest:
    attempt = {"tenant": "acme", "video_id": "v1", "attempt": "a1"}
    fields: dict[str, Any] = {"attempt": attempt, "model": "diorama", "width": 256, "height": 256, "num_frames": 60}
    return pb.EncodeRequest(prompt=prompt, **fields | changes)


class EchoEncoder(rpc.EncoderServiceServicer):
    """Runs ``work`` as its stage; ``before`` is awaited first and may raise."""

    def __init__(
        self,
        work: Callable[[Stage], object] = lambda _: None,
        before: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self._work = work
        self._before = before
        self.ended = asyncio.Event()

    @override
    async def Encode(self, request: pb.EncodeRequest, context: Any) -> AsyncIterator[pb.EncodeResponse]:
        try:
            if self._before is not None:
                await self._before(context)
            async for event in run_stage(self._work, heartbeat_seconds=0.05):
                if isinstance(event, Progress):
                    progress = artifact_pb2.Progress(step=event.step, total_steps=event.total_steps)
                    yield pb.EncodeResponse(progress=progress)
                elif isinstance(event, Heartbeat):
                    yield pb.EncodeResponse(heartbeat=artifact_pb2.Heartbeat(elapsed_seconds=event.elapsed_seconds))
        finally:
            self.ended.set()


class EchoVideo(video_pb2_grpc.VideoServiceServicer):
    """``GetVideo`` counts its calls and awaits ``before``, which may raise."""

    def __init__(self, before: Callable[[Any], Awaitable[None]]) -> None:
        self._before = before
        self.calls = 0

    @override
    async def GetVideo(self, request: video_pb2.GetVideoRequest, context: Any) -> video_pb2.GetVideoResponse:
        self.calls += 1
        await self._before(context)
        return video_pb2.GetVideoResponse()


def echo_video(before: Callable[[Any], Awaitable[None]]) -> EchoVideo:
    return EchoVideo(before)  # type: ignore[abstract]  # one RPC is enough here


def encoder_endpoint(servicer: EchoEncoder) -> Endpoint:
    return Endpoint(ENCODER, servicer, rpc.add_EncoderServiceServicer_to_server)


def video_endpoint(servicer: EchoVideo) -> Endpoint:
    return Endpoint(VIDEO, servicer, video_pb2_grpc.add_VideoServiceServicer_to_server)
