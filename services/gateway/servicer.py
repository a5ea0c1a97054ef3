"""VideoService over gRPC: each method translates, makes one call, and translates back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from soundstage.video.v1 import video_pb2 as pb
from soundstage.video.v1 import video_pb2_grpc as rpc
from typing_extensions import override

from libs.serving import caller
from services.gateway import convert
from services.gateway.videos import Videos

Context = grpc.aio.ServicerContext[Any, Any]


class VideoServicer(rpc.VideoServiceServicer):
    """The tenant is `caller()`, as the endpoint's door said; nothing in a request names one."""

    def __init__(self, videos: Videos) -> None:
        self._videos = videos

    @override
    async def CreateVideo(self, request: pb.CreateVideoRequest, context: Context) -> pb.CreateVideoResponse:
        asked = convert.request_from_proto(request)
        if request.validate_only:
            return pb.CreateVideoResponse(video=convert.checked_to_proto(await self._videos.check(caller(), asked)))
        view = await self._videos.create(caller(), asked)
        return pb.CreateVideoResponse(video=convert.video_to_proto(view))

    @override
    async def GetVideo(self, request: pb.GetVideoRequest, context: Context) -> pb.GetVideoResponse:
        view = await self._videos.get(convert.key_from_proto(caller(), request.name))
        return pb.GetVideoResponse(video=convert.video_to_proto(view))

    @override
    async def ListVideos(self, request: pb.ListVideosRequest, context: Context) -> pb.ListVideosResponse:
        only = convert.filter_from_proto(request)
        page = await self._videos.page(caller(), only, request.page_size, request.page_token)
        return convert.page_to_proto(page)

    @override
    async def WatchVideo(self, request: pb.WatchVideoRequest, context: Context) -> AsyncIterator[pb.WatchVideoResponse]:
        key = convert.key_from_proto(caller(), request.name)
        async with aclosing(self._videos.watch(key, request.after_sequence)) as events:
            async for event in events:
                yield convert.event_to_proto(event)

    @override
    async def CancelVideo(self, request: pb.CancelVideoRequest, context: Context) -> pb.CancelVideoResponse:
        view = await self._videos.cancel(convert.key_from_proto(caller(), request.name), request.reason)
        return pb.CancelVideoResponse(video=convert.video_to_proto(view))

    @override
    async def DeleteVideo(self, request: pb.DeleteVideoRequest, context: Context) -> pb.DeleteVideoResponse:
        await self._videos.delete(convert.key_from_proto(caller(), request.name))
        return pb.DeleteVideoResponse()

    @override
    async def AnalyzePrompt(self, request: pb.AnalyzePromptRequest, context: Context) -> pb.AnalyzePromptResponse:
        return convert.analysis_to_proto(await self._videos.analyze(request.prompt, request.model))

    @override
    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[convert.model_to_proto(card) for card in self._videos.models()])

    @override
    async def GetQuota(self, request: pb.GetQuotaRequest, context: Context) -> pb.GetQuotaResponse:
        return convert.quota_to_proto(await self._videos.quota(caller()))
