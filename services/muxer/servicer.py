"""Protobuf in, one call, protobuf out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

import grpc
from soundstage.muxer.v1 import muxer_pb2 as pb
from soundstage.muxer.v1 import muxer_pb2_grpc as rpc
from typing_extensions import override

from libs.serving import run_stage, stop_stage
from services.muxer import convert
from services.muxer.mux import Muxer
from services.muxer.render import Renderer

__all__ = ["SERVICE_NAME", "MuxerServicer"]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["MuxerService"].full_name


class MuxerServicer(rpc.MuxerServiceServicer):
    def __init__(self, renderer: Renderer, muxer: Muxer, heartbeat_seconds: float = 5.0) -> None:
        self._renderer = renderer
        self._muxer = muxer
        self._heartbeat_seconds = heartbeat_seconds

    @override
    async def Render(
        self, request: pb.RenderRequest, context: grpc.aio.ServicerContext[pb.RenderRequest, pb.RenderResponse]
    ) -> AsyncIterator[pb.RenderResponse]:
        work = partial(self._renderer.render, convert.render_job_from_proto(request))
        async with aclosing(
            run_stage(work, attempt=request.attempt, heartbeat_seconds=self._heartbeat_seconds)
        ) as events:
            async for event in events:
                yield convert.render_response_to_proto(event)

    @override
    async def Mux(
        self, request: pb.MuxRequest, context: grpc.aio.ServicerContext[pb.MuxRequest, pb.MuxResponse]
    ) -> AsyncIterator[pb.MuxResponse]:
        work = partial(self._muxer.mux, convert.mux_job_from_proto(request))
        async with aclosing(
            run_stage(work, attempt=request.attempt, heartbeat_seconds=self._heartbeat_seconds)
        ) as events:
            async for event in events:
                yield convert.mux_response_to_proto(event)

    @override
    async def Stop(
        self, request: pb.StopRequest, context: grpc.aio.ServicerContext[pb.StopRequest, pb.StopResponse]
    ) -> pb.StopResponse:
        return pb.StopResponse(at_work=stop_stage(request.attempt))
