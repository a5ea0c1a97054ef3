"""The client for backends, asynchronous. ``client.sync`` runs this same code for callers without an event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import wraps
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import grpc
from soundstage.artifact.v1 import artifact_pb2
from soundstage.video.v1 import video_pb2 as pb
from soundstage.video.v1 import video_pb2_grpc as rpc

from client.backoff import Backoff
from client.download import fetch
from client.errors import DownloadError, SoundstageRpcError, WaitTimeoutError
from client.request import AudioName, PresetName, PriorityName, create_request, video_name

__all__ = ["TERMINAL_STATES", "AsyncSoundstageClient"]

TERMINAL_STATES = (pb.STATE_SUCCEEDED, pb.STATE_FAILED, pb.STATE_CANCELLED)
SERVICE = pb.DESCRIPTOR.services_by_name["VideoService"]
# The server promises an event at least every 10 s, so this much silence means that the stream is broken.
SILENCE_SECONDS = 30.0
# About 40 s in all: enough for a gateway that is replaced.
WATCH_BACKOFF = Backoff(attempts=10)
IMAGE_AND_ENVELOPE_BYTES = 16 * 1024 * 1024

P = ParamSpec("P")
R = TypeVar("R")


def _rpc_errors(method: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Turns the transport's error into ours."""

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await method(*args, **kwargs)
        except grpc.aio.AioRpcError as error:
            raise SoundstageRpcError.from_rpc(error) from error

    return call


class AsyncSoundstageClient:
    """Calls the public VideoService. Use it in an ``async with``, or ``await client.close()``.

    A ``video`` argument is a ``Video``, its name (``videos/...``) or its bare id. Failed calls raise
    SoundstageRpcError; calls answered UNAVAILABLE have been repeated before that, which is safe for every one of them.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        timeout_seconds: float = 30.0,
        watch_backoff: Backoff = WATCH_BACKOFF,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """address: ``host:port``. token: an API key or a JWT, for servers that ask who calls.

        credentials: TLS, as ``tls_credentials`` makes them; without it the connection is in the clear.
        metadata: sent with every call. timeout_seconds: of every call but ``watch``, ``wait`` and ``download``.
        watch_backoff, silence_seconds: when ``watch`` takes up a stream again, and when it gives up.
        """
        self.address = address
        self._credentials = credentials
        self._metadata = (*metadata, *((("authorization", f"Bearer {token}"),) if token else ()))
        self._timeout = timeout_seconds
        self._backoff = watch_backoff
        self._silence = silence_seconds
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    @_rpc_errors
    async def create(
        self,
        prompt: str,
        *,
        model: str = "",
        negative_prompt: str = "",
        image: bytes | str | PathLike[str] | None = None,
        duration: float | None = None,
        width: int | None = None,
        height: int | None = None,
        fps: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
        preset: PresetName | None = None,
        audio_intent: AudioName | None = None,
        priority: PriorityName | None = None,
        deadline: datetime | None = None,
        request_id: str | None = None,
        validate_only: bool = False,
        lora: bytes | str | PathLike[str] | artifact_pb2.Artifact | None = None,
        lora_scale: float | None = None,
    ) -> pb.Video:
        """Asks for a video; returns it QUEUED. What is left out takes the model's default.

        image: PNG or JPEG, its bytes or a file. duration: seconds. deadline: with a time zone.
        request_id: a UUID; a repeat with the same id gives the same video. One is drawn if none is given.
        validate_only: makes nothing; the answer has no name, but every default and ``cost_credits``, its price.
        lora: safetensors, its bytes or a file, or what ``spec.lora.artifact`` of an earlier video says. lora_scale: how
        strongly it changes the model, 0 to 2; 1 if left out.
        Also raises ValueError for an unknown preset, audio intent or priority, or a number that no request can hold;
        OSError for an unreadable file.
        """
        request = create_request(
            prompt,
            model=model,
            negative_prompt=negative_prompt,
            image=image,
            duration=duration,
            width=width,
            height=height,
            fps=fps,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=seed,
            preset=preset,
            audio_intent=audio_intent,
            priority=priority,
            deadline=deadline,
            request_id=request_id,
            validate_only=validate_only,
            lora=lora,
            lora_scale=lora_scale,
        )
        return (await self._stub.CreateVideo(request, timeout=self._timeout, metadata=self._metadata)).video

    @_rpc_errors
    async def get(self, video: str | pb.Video) -> pb.Video:
        """Reads a video as it is now, with fresh download addresses."""
        request = pb.GetVideoRequest(name=video_name(video))
        return (await self._stub.GetVideo(request, timeout=self._timeout, metadata=self._metadata)).video

    async def list(
        self, *, states: Iterable[pb.State.ValueType] = (), page_size: int = 0
    ) -> AsyncGenerator[pb.Video, None]:
        """All the caller's videos, newest first; the next page is fetched when it is needed."""
        request = pb.ListVideosRequest(page_size=page_size, states=states)
        while True:
            page = await self._list_page(request)
            for video in page.videos:
                yield video
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch(
        self, video: str | pb.Video, *, after_sequence: int = 0
    ) -> AsyncGenerator[pb.WatchVideoResponse, None]:
        """Events with a higher sequence number than ``after_sequence``, each once and in order, until the video ends.

        A stream that is cut (UNAVAILABLE), silent for ``silence_seconds`` or ended too early is taken up again after
        the last event received; the error is raised once that failed 10 times without an event in between.
        """
        name, last, failures = video_name(video), after_sequence, 0
        while True:
            try:
                async with aclosing(self._watch_once(name, last)) as events:
                    async for event in events:
                        failures = 0
                        if event.sequence > last:  # otherwise it only says that the stream lives
                            last = event.sequence
                            yield event
                await self._check_ended(name, last)
            except SoundstageRpcError as error:
                failures += 1
                if error.code is not grpc.StatusCode.UNAVAILABLE or failures >= self._backoff.attempts:
                    raise
            else:
                return
            await asyncio.sleep(self._backoff.seconds(failures))

    async def wait(
        self,
        video: str | pb.Video,
        *,
        timeout_seconds: float = 3600.0,
        on_event: Callable[[pb.WatchVideoResponse], object] | None = None,
    ) -> pb.Video:
        """Returns the video once it is SUCCEEDED, FAILED or CANCELLED: look at ``state``. Raises WaitTimeoutError."""
        try:
            async with asyncio.timeout(timeout_seconds), aclosing(self.watch(video)) as events:
                async for event in events:
                    if on_event is not None:
                        on_event(event)
        except TimeoutError:
            raise WaitTimeoutError(
                f"{video_name(video)} was not ready after {timeout_seconds:g} s; it goes on, and you can wait again"
            ) from None
        return await self.get(video)

    @_rpc_errors
    async def cancel(self, video: str | pb.Video, *, reason: str = "") -> pb.Video:
        """Asks a video to stop. It is CANCELLED only once the work has stopped: ``wait`` for that."""
        request = pb.CancelVideoRequest(name=video_name(video), reason=reason)
        return (await self._stub.CancelVideo(request, timeout=self._timeout, metadata=self._metadata)).video

    @_rpc_errors
    async def delete(self, video: str | pb.Video) -> None:
        """Removes a video that has ended, with its files."""
        request = pb.DeleteVideoRequest(name=video_name(video))
        await self._stub.DeleteVideo(request, timeout=self._timeout, metadata=self._metadata)

    async def download(
        self, video: str | pb.Video, path: str | PathLike[str], *, poster: str | PathLike[str] | None = None
    ) -> Path:
        """Brings the MP4 to ``path``, and the JPEG to ``poster`` if given. Returns ``path``.

        The file appears complete and with the promised sha256, or not at all: DownloadError.
        """
        fresh = await self.get(video)
        if not fresh.HasField("result"):
            state = pb.State.Name(fresh.state).removeprefix("STATE_")
            raise DownloadError(f"{fresh.name} is {state}: only a video that SUCCEEDED can be downloaded")
        result = fresh.result
        if result.deleted:
            when = result.delete_time.ToDatetime().isoformat(" ", "minutes")
            raise DownloadError(f"the files of {fresh.name} were deleted, being kept until {when} UTC: make it again")
        await asyncio.to_thread(fetch, result.video_url, Path(path), sha256=result.sha256, size_bytes=result.size_bytes)
        if poster is not None:
            await asyncio.to_thread(fetch, result.poster_url, Path(poster))
        return Path(path)

    @_rpc_errors
    async def models(self) -> Sequence[pb.Model]:
        """The models that can be asked for, the default one first."""
        answer = await self._stub.ListModels(pb.ListModelsRequest(), timeout=self._timeout, metadata=self._metadata)
        return list[pb.Model](answer.models)

    @_rpc_errors
    async def quota(self) -> pb.GetQuotaResponse:
        """The caller's quota and what is left of it."""
        return await self._stub.GetQuota(pb.GetQuotaRequest(), timeout=self._timeout, metadata=self._metadata)

    @_rpc_errors
    async def analyze(self, prompt: str, *, model: str = "") -> pb.AnalyzePromptResponse:
        """How well a model is likely to understand a prompt, and what would help."""
        request = pb.AnalyzePromptRequest(prompt=prompt, model=model)
        return await self._stub.AnalyzePrompt(request, timeout=self._timeout, metadata=self._metadata)

    @_rpc_errors
    async def _list_page(self, request: pb.ListVideosRequest) -> pb.ListVideosResponse:
        return await self._stub.ListVideos(request, timeout=self._timeout, metadata=self._metadata)

    async def _watch_once(self, name: str, after_sequence: int) -> AsyncGenerator[pb.WatchVideoResponse, None]:
        """One stream, as it comes. A silent one is taken for a broken one: UNAVAILABLE."""
        request = pb.WatchVideoRequest(name=name, after_sequence=after_sequence)
        call = self._stub.WatchVideo(request, metadata=self._metadata)
        try:
            while isinstance(event := await asyncio.wait_for(call.read(), self._silence), pb.WatchVideoResponse):
                yield event
        except grpc.aio.AioRpcError as error:
            raise SoundstageRpcError.from_rpc(error) from error
        except TimeoutError as error:
            message = f"the server sent nothing for {self._silence:g} s"
            raise SoundstageRpcError(grpc.StatusCode.UNAVAILABLE, message) from error
        finally:
            call.cancel()

    async def _check_ended(self, name: str, last: int) -> None:
        """A stream may end only when the video has ended and its last event was sent; a stopping server is early."""
        video = await self.get(name)
        if video.state not in TERMINAL_STATES or video.sequence > last:
            raise SoundstageRpcError(grpc.StatusCode.UNAVAILABLE, "the stream ended before the video did")

    @property
    def _stub(self) -> rpc.VideoServiceAsyncStub:
        if self._channel is None:  # made in a running loop, which a constructor need not have
            self._channel = _open_channel(self.address, self._credentials)
        return rpc.VideoServiceStub(self._channel)


def _open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    options = [
        ("grpc.service_config", json.dumps(_service_config())),
        ("grpc.max_receive_message_length", IMAGE_AND_ENVELOPE_BYTES),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, credentials, options)


def _service_config() -> dict[str, object]:
    """Repeats of UNAVAILABLE by gRPC itself, jittered. Not for WatchVideo: it is resumed by sequence number."""
    names = [{"service": SERVICE.full_name, "method": m.name} for m in SERVICE.methods if m.name != "WatchVideo"]
    policy = {
        "maxAttempts": 5,
        "initialBackoff": "0.25s",
        "maxBackoff": "4s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return {"methodConfig": [{"name": names, "retryPolicy": policy}]}
