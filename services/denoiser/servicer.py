"""Protobuf in, one call, protobuf out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

import grpc
from soundstage.denoiser.v1 import denoiser_pb2 as pb
from soundstage.denoiser.v1 import denoiser_pb2_grpc as rpc
from typing_extensions import override

from libs.serving import run_stage, stop_stage
from services.denoiser import convert
from services.denoiser.denoise import Denoiser

__all__ = ["SERVICE_NAME", "DenoiserServicer"]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["DenoiserService"].full_name


class DenoiserServicer(rpc.DenoiserServiceServicer):
    def __init__(self, denoiser: Denoiser, heartbeat_seconds: float = 5.0) -> None:
        self._denoiser = denoiser
        self._heartbeat_seconds = heartbeat_seconds

    @override
    async def Denoise(
        self, request: pb.DenoiseRequest, context: grpc.aio.ServicerContext[pb.DenoiseRequest, pb.DenoiseResponse]
    ) -> AsyncIterator[pb.DenoiseResponse]:
        work = partial(self._denoiser.denoise, convert.job_from_proto(request))
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
