"""Light stage services for tests: real gRPC servers that speak the real contracts and write small real artifacts.

What they should do is set by each stage's `Script`; what they were asked is kept there too. Like real stages they work
in a thread through `run_stage`, and a call is over only when its thread has stopped.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from soundstage.artifact.v1 import artifact_pb2
from soundstage.audio.v1 import audio_pb2, audio_pb2_grpc
from soundstage.denoiser.v1 import denoiser_pb2, denoiser_pb2_grpc
from soundstage.encoder.v1 import encoder_pb2, encoder_pb2_grpc
from soundstage.muxer.v1 import muxer_pb2, muxer_pb2_grpc

from libs.artifacts import Store, prefix_from_proto, ref_from_proto, ref_to_proto
from libs.serving import (
    Cancelled,
    Done,
    Endpoint,
    Heartbeat,
    Progress,
    ServiceSettings,
    Stage,
    run_stage,
    running,
    stop_stage,
)

__all__ = ["Script", "StageServers", "serving_stages", "stage_endpoints"]

JPEG = b"\xff\xd8\xff\xe0 not much of a picture \xff\xd9"
DURATION_SECONDS = 5.0


@dataclass
class Script:
    """How one stage behaves. `errors` are raised by the next calls, one each, after their first step: before it,
    UNAVAILABLE would be tried again by the channel."""

    steps: int | None = 2
    """None: as many as a request to denoise asks for."""
    step_seconds: float = 0.0
    errors: list[Exception] = field(default_factory=list)
    previews: bool = False
    requests: list[Any] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    """Attempts whose work was stopped by a cancellation of its call."""
    stopped_times: list[float] = field(default_factory=list)
    """When the threads of those had stopped, in seconds since the epoch."""
    deaf: bool = False
    """A step once begun goes on to its end, as on a GPU; else it is broken off."""
    began: threading.Event = field(default_factory=threading.Event)
    asked_to_stop: threading.Event = field(default_factory=threading.Event)
    """The denoiser's only."""
    at: Callable[[str, Any, Stage], None] = lambda _point, _request, _control: None
    """Called with "begin", "middle" (half of the steps), and then "finish" (all is written), "stopped" or "failed"."""


@dataclass
class StageServers:
    address: str = ""
    encode: Script = field(default_factory=Script)
    denoise: Script = field(default_factory=lambda: Script(previews=True))
    render: Script = field(default_factory=Script)
    synthesize: Script = field(default_factory=Script)
    mux: Script = field(default_factory=Script)


def stage_endpoints(store: Store, scripts: StageServers) -> dict[str, Endpoint]:
    """By service."""
    return {
        "encoder": _endpoint("soundstage.encoder.v1.EncoderService", _Encoder(store, scripts), encoder_pb2_grpc),
        "denoiser": _endpoint("soundstage.denoiser.v1.DenoiserService", _Denoiser(store, scripts), denoiser_pb2_grpc),
        "audio": _endpoint("soundstage.audio.v1.AudioService", _Audio(store, scripts), audio_pb2_grpc),
        "muxer": _endpoint("soundstage.muxer.v1.MuxerService", _Muxer(store, scripts), muxer_pb2_grpc),
    }


@asynccontextmanager
async def serving_stages(store: Store, settings: ServiceSettings | None = None) -> AsyncIterator[StageServers]:
    """All four services on one port."""
    scripts = StageServers()
    endpoints = list(stage_endpoints(store, scripts).values())
    async with running(settings or ServiceSettings(grace_seconds=0.5), endpoints) as server:
        scripts.address = server.address
        yield scripts


def _endpoint(name: str, servicer: Any, generated: Any) -> Endpoint:
    return Endpoint(name, servicer, getattr(generated, f"add_{name.rpartition('.')[2]}Servicer_to_server"))


@dataclass
class _Encoder(encoder_pb2_grpc.EncoderServiceServicer):
    store: Store
    scripts: StageServers

    async def Encode(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ARG002, N802
        reads = [request.image] if request.HasField("image") else []
        work = _work(self.store, self.scripts.encode, request, "encode", reads, ("conditioning.safetensors",))
        async for event in _events(work, request, encoder_pb2.EncodeResponse):
            yield event

    async def Stop(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return encoder_pb2.StopResponse(at_work=stop_stage(request.attempt))

    async def Embed(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Directions that mean nothing, the same for the same text."""
        rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(384) for text in request.texts]
        embeddings = [encoder_pb2.Embedding(values=row / np.linalg.norm(row)) for row in rows]
        return encoder_pb2.EmbedResponse(embeddings=embeddings)


@dataclass
class _Denoiser(denoiser_pb2_grpc.DenoiserServiceServicer):
    store: Store
    scripts: StageServers

    async def Denoise(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ARG002, N802
        reads = [request.conditioning, *([request.lora.artifact] if request.HasField("lora") else [])]
        work = _work(self.store, self.scripts.denoise, request, "denoise", reads, ("latents.safetensors",))
        async for event in _events(work, request, denoiser_pb2.DenoiseResponse):
            yield event

    async def Stop(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        at_work = stop_stage(request.attempt)
        self.scripts.denoise.asked_to_stop.set()
        return denoiser_pb2.StopResponse(at_work=at_work)


@dataclass
class _Audio(audio_pb2_grpc.AudioServiceServicer):
    store: Store
    scripts: StageServers

    async def Synthesize(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ARG002, N802
        reads = [request.picture]
        work = _work(self.store, self.scripts.synthesize, request, "synthesize", reads, ("sound.flac",))
        async for event in _events(work, request, audio_pb2.SynthesizeResponse):
            yield event

    async def Stop(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return audio_pb2.StopResponse(at_work=stop_stage(request.attempt))


@dataclass
class _Muxer(muxer_pb2_grpc.MuxerServiceServicer):
    store: Store
    scripts: StageServers

    async def Render(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ARG002, N802
        work = _work(self.store, self.scripts.render, request, "render", [request.latents], ("picture.mp4",))
        async for event in _events(work, request, muxer_pb2.RenderResponse):
            yield event

    async def Mux(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ARG002, N802
        reads = [request.picture, request.sound]
        work = _work(self.store, self.scripts.mux, request, "mux", reads, ("video.mp4", "poster.jpg"))
        async for event in _events(work, request, muxer_pb2.MuxResponse):
            yield event

    async def Stop(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return muxer_pb2.StopResponse(at_work=stop_stage(request.attempt))


def _work(
    store: Store, script: Script, request: Any, stage: str, reads: list[Any], writes: tuple[str, ...]
) -> Callable[[Stage], dict[str, Any]]:
    """Reads every input, steps, and writes outputs whose names without suffix are the fields of the stage's result."""

    def work(control: Stage) -> dict[str, Any]:
        script.requests.append(request)
        script.began.set()
        try:
            script.at("begin", request, control)
            outputs = make(control)
        except Cancelled:
            script.stopped.append(request.attempt.attempt)
            script.stopped_times.append(time.time())
            script.at("stopped", request, control)
            raise
        except Exception:
            script.at("failed", request, control)
            raise
        script.at("finish", request, control)
        return outputs

    def make(control: Stage) -> dict[str, Any]:
        inputs = [store.get(ref_from_proto(artifact)) for artifact in reads]
        _steps(script, request, control)
        prefix = prefix_from_proto(request.attempt, stage)
        outputs = {}
        for name in writes:
            data = name.encode() + b" of " + request.attempt.video_id.encode() + b"".join(i[:8] for i in inputs)
            outputs[name.partition(".")[0]] = ref_to_proto(store.put(prefix.key(name), data, "application/test"))
        return outputs

    return work


def _steps(script: Script, request: Any, control: Stage) -> None:
    steps = script.steps or request.num_inference_steps
    for step in range(1, steps + 1):
        ends = time.monotonic() + script.step_seconds
        while time.monotonic() < ends:
            if not script.deaf:
                control.raise_if_cancelled()
            time.sleep(min(0.02, script.step_seconds))
        control.raise_if_cancelled()
        control.progress(step, steps)
        if step == max(steps // 2, 1):
            script.at("middle", request, control)
        if script.errors:
            raise script.errors.pop(0)
        if script.previews:
            control.emit(denoiser_pb2.DenoisePreview(step=step, jpeg=JPEG))


async def _events(work: Callable[[Stage], dict[str, Any]], request: Any, response: Any) -> AsyncIterator[Any]:
    async for event in run_stage(work, attempt=request.attempt):
        match event:
            case Heartbeat(elapsed_seconds):
                yield response(heartbeat=artifact_pb2.Heartbeat(elapsed_seconds=elapsed_seconds))
            case Progress(step, total_steps):
                progress = artifact_pb2.Progress(step=step, total_steps=total_steps)
                nested = denoiser_pb2.DenoiseProgress(progress=progress, step_seconds=1.0)
                yield response(progress=nested if response is denoiser_pb2.DenoiseResponse else progress)
            case denoiser_pb2.DenoisePreview():
                yield response(preview=event)
            case Done(result, wall_seconds):
                yield response(result={**result, "usage": _usage(wall_seconds), **_length(response)})


def _usage(wall_seconds: float) -> artifact_pb2.Usage:
    return artifact_pb2.Usage(wall_seconds=wall_seconds, load_seconds=0.0, gpu_seconds=0.25)


def _length(response: Any) -> dict[str, float]:
    return {"duration_seconds": DURATION_SECONDS} if response is muxer_pb2.MuxResponse else {}
