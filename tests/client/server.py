"""A VideoService small enough to read: videos in memory, whose streams can be told to break."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from soundstage.video.v1 import video_pb2 as pb
from soundstage.video.v1 import video_pb2_grpc as rpc
from typing_extensions import override

STEPS = 3


class FakeVideos(rpc.VideoServiceServicer):
    """``breaks``: for each WatchVideo call in turn, how it ends early, and after how many events."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.videos: dict[str, pb.Video] = {}
        self.result = pb.VideoResult(video_url="file:///nowhere.mp4", poster_url="file:///nowhere.jpg")
        self.breaks: list[tuple[str, int]] = []
        self.unavailable_creates = 0
        self.final_state: pb.State.ValueType = pb.STATE_SUCCEEDED

    @override
    async def CreateVideo(self, request: pb.CreateVideoRequest, context: Any) -> pb.CreateVideoResponse:
        self.requests.append(request)
        if self.unavailable_creates:
            self.unavailable_creates -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "moving house")
        if not request.spec.prompt.strip():
            await _abort_invalid(context, "spec.prompt", "write what the video should show")
        if request.spec.duration.seconds > 8:
            await _abort_invalid(context, "spec.duration", "diorama makes 1 to 8 s; ask for 8 s or less")
        if request.validate_only:
            return pb.CreateVideoResponse(video=pb.Video(spec=request.spec, cost_credits=17))
        name = f"videos/{len(self.videos) + 1}"
        self.videos[name] = pb.Video(name=name, spec=request.spec, state=pb.STATE_QUEUED)
        self.videos[name].create_time.FromSeconds(1_800_000_000)
        return pb.CreateVideoResponse(video=self.videos[name])

    @override
    async def GetVideo(self, request: pb.GetVideoRequest, context: Any) -> pb.GetVideoResponse:
        return pb.GetVideoResponse(video=await self._find(request.name, context))

    @override
    async def ListVideos(self, request: pb.ListVideosRequest, context: Any) -> pb.ListVideosResponse:
        self.requests.append(pb.ListVideosRequest.FromString(request.SerializeToString()))
        found = [v for v in self.videos.values() if not request.states or v.state in request.states]
        start, size = int(request.page_token or 0), request.page_size or 2
        rest = start + size < len(found)
        return pb.ListVideosResponse(
            videos=found[start : start + size], next_page_token=str(start + size) if rest else ""
        )

    @override
    async def WatchVideo(self, request: pb.WatchVideoRequest, context: Any) -> AsyncIterator[pb.WatchVideoResponse]:
        self.requests.append(request)
        video = await self._find(request.name, context)
        how, after = self.breaks.pop(0) if self.breaks else ("", 0)
        sent = 0
        for event in self._events(video):
            if how and sent == after:
                break
            if event.sequence <= request.after_sequence:
                continue
            video.CopyFrom(event.video)
            yield event
            yield pb.WatchVideoResponse(sequence=event.sequence, video=event.video)  # only says that it lives
            sent += 1
        if how == "cut":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        if how == "silent":
            await asyncio.sleep(60)

    @override
    async def CancelVideo(self, request: pb.CancelVideoRequest, context: Any) -> pb.CancelVideoResponse:
        self.requests.append(request)
        video = await self._find(request.name, context)
        video.state = self.final_state = pb.STATE_CANCELLED
        return pb.CancelVideoResponse(video=video)

    @override
    async def DeleteVideo(self, request: pb.DeleteVideoRequest, context: Any) -> pb.DeleteVideoResponse:
        video = await self._find(request.name, context)
        del self.videos[video.name]
        return pb.DeleteVideoResponse()

    @override
    async def AnalyzePrompt(self, request: pb.AnalyzePromptRequest, context: Any) -> pb.AnalyzePromptResponse:
        finding = pb.PromptFinding(aspect="light", message="says what the light is like", part="at dusk", positive=True)
        return pb.AnalyzePromptResponse(score=0.5, findings=[finding], suggestions=[f"{request.prompt} at night"])

    @override
    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        defaults = pb.VideoDefaults(width=256, height=256, fps=12, num_inference_steps=25)
        return pb.ListModelsResponse(models=[pb.Model(name="diorama", description="Small.", defaults=defaults)])

    @override
    async def GetQuota(self, request: pb.GetQuotaRequest, context: Any) -> pb.GetQuotaResponse:
        """Tells the caller by its token, as the real one does by the key."""
        tenant = dict(context.invocation_metadata()).get("authorization", "Bearer t").removeprefix("Bearer ")
        if tenant == "wrong":
            status = status_pb2.Status(code=grpc.StatusCode.UNAUTHENTICATED.value[0], message="no such key")
            await _abort(context, status, error_details_pb2.ErrorInfo(reason="API_KEY_INVALID", domain="soundstage"))
        answer = pb.GetQuotaResponse(tenant=tenant, max_active_videos=4, queued_videos=1, active_videos=3, credits=12.5)
        answer.max_queued_videos, answer.max_running_videos = 20, 1000
        return answer

    def _events(self, video: pb.Video) -> Iterator[pb.WatchVideoResponse]:
        """QUEUED, three RUNNING steps, and the end: sequence 1 to 5."""
        for sequence in range(1, STEPS + 3):
            after = pb.Video(name=video.name, spec=video.spec, create_time=video.create_time, sequence=sequence)
            after.state = pb.STATE_QUEUED if sequence == 1 else pb.STATE_RUNNING
            if sequence == STEPS + 2:
                after.state = self.final_state
                if after.state == pb.STATE_SUCCEEDED:
                    after.result.CopyFrom(self.result)
                    timing = after.stage_timings.add(stage=pb.STAGE_DENOISE, attempts=1)
                    timing.duration.FromMilliseconds(12_300)
                elif after.state == pb.STATE_FAILED:
                    after.error.CopyFrom(
                        pb.VideoError(reason="STAGE_FAILED", message="out of memory", stage=pb.STAGE_DENOISE)
                    )
            elif sequence > 1:
                after.progress.CopyFrom(
                    pb.Progress(stage=pb.STAGE_DENOISE, step=sequence - 1, total_steps=STEPS, fraction=sequence / 5)
                )
            yield pb.WatchVideoResponse(sequence=sequence, video=after)

    async def _find(self, name: str, context: Any) -> pb.Video:
        if not re.fullmatch("videos/[A-Za-z0-9-]{1,64}", name):
            await _abort_invalid(context, "name", "does not match regex pattern `^videos/[A-Za-z0-9-]{1,64}$`")
        if name not in self.videos:
            status = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message=f"there is no {name}")
            await _abort(context, status, error_details_pb2.ErrorInfo(reason="VIDEO_NOT_FOUND", domain="soundstage"))
        return self.videos[name]


async def _abort_invalid(context: Any, field: str, description: str) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field=field, description=description)
    status = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message=f"{field}: {description}")
    info = error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain="soundstage")
    await _abort(context, status, info, bad)


async def _abort(context: Any, status: Any, *details: Any) -> None:
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    rich = rpc_status.to_status(status)
    await context.abort(rich.code, rich.details, rich.trailing_metadata)


@asynccontextmanager
async def serving(videos: FakeVideos, tls: grpc.ServerCredentials | None = None) -> AsyncIterator[str]:
    """A real server on a free port; gives its address."""
    server = grpc.aio.server()
    rpc.add_VideoServiceServicer_to_server(videos, server)
    address = "127.0.0.1:0"
    port = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, tls)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@contextmanager
def serving_in_thread(videos: FakeVideos, tls: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """The same for callers that block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = serving(videos, tls)
    address = asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    try:
        yield address
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
