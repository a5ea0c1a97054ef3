"""Protobuf in, one call, protobuf out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

import grpc
from soundstage.encoder.v1 import encoder_pb2 as pb
from soundstage.encoder.v1 import encoder_pb2_grpc as rpc
from typing_extensions import override

from libs.serving import in_passing_thread, run_stage, stop_stage
from services.encoder import convert
from services.encoder.embed import Embedder
from services.encoder.encode import Encoder

__all__ = ["SERVICE_NAME", "EncoderServicer"]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["EncoderService"].full_name


class EncoderServicer(rpc.EncoderServiceServicer):
    def __init__(self, encoder: Encoder, embedder: Embedder, heartbeat_seconds: float = 5.0) -> None:
        self._encoder, self._embedder = encoder, embedder
        self._heartbeat_seconds = heartbeat_seconds

    @override
    async def Encode(
        self, request: pb.EncodeRequest, context: grpc.aio.ServicerContext[pb.EncodeRequest, pb.EncodeResponse]
    ) -> AsyncIterator[pb.EncodeResponse]:
        work = partial(self._encoder.encode, convert.job_from_proto(request))
        async with aclosing(
            run_stage(work, attempt=request.attempt, heartbeat_seconds=self._heartbeat_seconds)
        ) as events:
            async for event in events:
                yield convert.response_to_proto(event)

    @override
    async def Stop(
        self, request: pb.StopRequest, context: grpc.aio.ServicerContext[pb.StopRequest, pb.StopResponse]
    ) -> pb.StopResponse:
        return pb.StopResponse(at_work=stop_stage(request.attempt))

    @override
    async def Embed(
        self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext[pb.EmbedRequest, pb.EmbedResponse]
    ) -> pb.EmbedResponse:
        return convert.directions_to_proto(await in_passing_thread(self._embedder.embed, list(request.texts)))
