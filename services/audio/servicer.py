"""Protobuf in, one call, protobuf out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

import grpc
from soundstage.audio.v1 import audio_pb2 as pb
from soundstage.audio.v1 import audio_pb2_grpc as rpc
from typing_extensions import override

from libs.serving import run_stage, stop_stage
from services.audio import convert
from services.audio.synthesize import Synthesizer

__all__ = ["SERVICE_NAME", "AudioServicer"]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AudioService"].full_name


class AudioServicer(rpc.AudioServiceServicer):
    def __init__(self, synthesizer: Synthesizer, heartbeat_seconds: float = 5.0) -> None:
        self._synthesizer = synthesizer
        self._heartbeat_seconds = heartbeat_seconds

    @override
    async def Synthesize(
        self,
        request: pb.SynthesizeRequest,
        context: grpc.aio.ServicerContext[pb.SynthesizeRequest, pb.SynthesizeResponse],
    ) -> AsyncIterator[pb.SynthesizeResponse]:
        work = partial(self._synthesizer.synthesize, convert.job_from_proto(request))
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
