"""The gateway's side of the five stage services: one port, and one gRPC client a stage.

A client's `run` yields what the service says until `Finished`. Closing or cancelling it asks the service to stop and
waits until that has ended the stream by itself: then no step of the work runs any more. (A client that cancels its RPC
sees it end before the server's thread has.) When the connection breaks, it asks until the service answers that the
attempt is not at work. It raises the error tree: what the service reported, or Unavailable when it is away or silent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any, Protocol

import grpc
from soundstage.artifact.v1 import artifact_pb2
from soundstage.audio.v1 import audio_pb2, audio_pb2_grpc
from soundstage.denoiser.v1 import denoiser_pb2, denoiser_pb2_grpc
from soundstage.encoder.v1 import encoder_pb2, encoder_pb2_grpc
from soundstage.muxer.v1 import muxer_pb2, muxer_pb2_grpc

from libs.artifacts import Ref, ref_from_proto, ref_to_proto
from libs.errors import SoundstageError, Unavailable
from libs.serving import error_from_rpc, trace_metadata
from services.gateway.retries import STAGE_LOST, STAGE_SILENT
from services.gateway.video import AudioIntent, Lora, Priority, Spec, Stage, VideoKey

logger = logging.getLogger(__name__)

BROKEN = ("Socket closed", "Connection reset", "Broken pipe")
"""How gRPC words a connection that was there and went away; there is no code for it."""

SILENCE_SECONDS = 20.0
"""A stage sends something every 5 s. After this long without anything it is taken for lost and the RPC is cancelled."""

STOP_CALL_SECONDS = 5.0
STOP_ASKED_TIMES = 5
"""An attempt whose call has not reached the service yet is not known there; it is asked again, this often in all."""
STOP_PAUSE_SECONDS = 0.2
STOP_AWAY_SECONDS, LOST_AWAY_SECONDS = 15.0, 1.0
"""How long a service may not be reached until it is taken for dead: one whose work was to be stopped, and one whose
connection broke at its work, where most often it is the process that ended. With a connection its calls end, too, and
with them the work: what goes on for longer than this goes on by itself to the end of its step."""
STOP_SECONDS = 600.0
"""The longest wait for a stage that goes on saying that it is at work after it was told to stop."""

TITLE_CHARACTERS = 256
MAX_FPS_DENOMINATOR = 1001


@dataclass(frozen=True)
class Job:
    """One attempt of one stage. `inputs` holds what earlier stages made, by the names of the stages' results."""

    key: VideoKey
    attempt: str
    spec: Spec
    image: Ref | None
    priority: Priority
    deadline: datetime | None
    preview_every_steps: int
    inputs: Mapping[str, Ref]


@dataclass(frozen=True)
class Alive:
    """Nothing new, but the stage is at work."""


@dataclass(frozen=True)
class Progressed:
    step: int
    total_steps: int
    begins: bool = False
    """Denoising begins here: the steps so far are those of a checkpoint."""


@dataclass(frozen=True)
class Previewed:
    jpeg: bytes
    sound: Ref | None = None


@dataclass(frozen=True)
class Finished:
    """The end. `refs` are the stage's outputs by name; `duration_seconds` is only known by mux."""

    refs: Mapping[str, Ref]
    load_seconds: float
    gpu_seconds: float
    duration_seconds: float = 0.0


StageEvent = Alive | Progressed | Previewed | Finished


class StageClient(Protocol):
    def run(self, job: Job) -> AsyncGenerator[StageEvent, None]: ...

    async def stop(self, key: VideoKey, attempt: str) -> None: ...


Stop = Callable[[artifact_pb2.Attempt], Awaitable[bool]]
"""Tells an attempt's work to stop; False if it is not at work."""


class _Call:
    """A stream that is read in tasks of their own: gRPC cancels a call whose reader is cancelled while it reads."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, Any], silence_seconds: float) -> None:
        self._call, self._silence_seconds = call, silence_seconds
        self._reading: asyncio.Future[Any] | None = None

    def done(self) -> bool:
        return self._call.done()

    async def read(self) -> Any:  # noqa: ANN401 - one of five messages
        self._reading = self._reading or asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait({self._reading}, timeout=self._silence_seconds)
        if not done:
            raise Unavailable(f"the stage said nothing for {self._silence_seconds:g} s", reason=STAGE_SILENT)
        reading, self._reading = self._reading, None
        return reading.result()

    async def cancel(self) -> None:
        """Ends what has not ended, and waits for that."""
        self._call.cancel()
        await self._call.code()
        if self._reading is not None:
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await self._reading


class GrpcStage:
    """Calls one RPC of a stage service and translates its events, whose oneof has the same names in all five."""

    def __init__(
        self,
        rpc: Callable[..., grpc.aio.UnaryStreamCall[Any, Any]],
        request: Callable[[Job], Any],
        outputs: tuple[str, ...],
        stop: Stop,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._rpc, self._request, self._outputs, self._stop = rpc, request, outputs, stop
        self._silence_seconds = silence_seconds

    async def run(self, job: Job) -> AsyncGenerator[StageEvent, None]:
        call, heard, over = (
            _Call(self._rpc(self._request(job), metadata=trace_metadata()), self._silence_seconds),
            False,
            False,
        )
        away_seconds = STOP_AWAY_SECONDS
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                heard, event = True, self._event(message)
                over = isinstance(event, Finished)
                yield event
            over = True
        except grpc.aio.AioRpcError as error:
            told = _told_or_lost(error, heard=heard)
            over, away_seconds = told.reason != STAGE_LOST, LOST_AWAY_SECONDS
            raise told from error
        except Unavailable:
            away_seconds = LOST_AWAY_SECONDS
            await call.cancel()
            raise
        finally:
            if over:
                await call.cancel()
            else:
                # In a task of its own: another cancellation (the worker's stop) must not cut it short.
                await asyncio.shield(asyncio.ensure_future(self._stop_work(call, job, away_seconds)))

    async def stop(self, key: VideoKey, attempt: str) -> None:
        """Tells an attempt to stop whose worker was lost: it may be frozen, with its call open. Helps where it can."""
        try:
            await self._stop(artifact_pb2.Attempt(tenant=key.tenant, video_id=key.video_id, attempt=attempt))
        except grpc.aio.AioRpcError as error:
            logger.info("video %s of %s: %s not told to stop: %s", key.video_id, key.tenant, attempt, error.code().name)

    async def _stop_work(self, call: _Call, job: Job, away_seconds: float) -> None:
        """Returns when the service says that the work is over, or cannot be asked any more."""
        video = job.key.video_id, job.key.tenant, job.attempt
        try:
            async with asyncio.timeout(STOP_SECONDS):
                try:
                    await self._stop_stream(call, job)
                except (grpc.aio.AioRpcError, Unavailable) as error:
                    code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else error.reason
                    logger.info("video %s of %s: %s ended: %s", *video, code)
                await call.cancel()
                await self._until_over(job, away_seconds)
        except TimeoutError:
            logger.warning("video %s of %s: %s does not stop", *video)
        except Unavailable as error:
            logger.warning("video %s of %s: %s not known to have stopped: %s", *video, error)
        await call.cancel()

    async def _stop_stream(self, call: _Call, job: Job) -> None:
        """Asks until the attempt is known there, and reads on until its work ends the stream."""
        for _ in range(STOP_ASKED_TIMES):
            if call.done() or await self._stop(_attempt(job)):
                break
            await asyncio.sleep(STOP_PAUSE_SECONDS)
        else:
            return
        while not call.done() and await call.read() is not grpc.aio.EOF:
            continue

    async def _until_over(self, job: Job, away_seconds: float) -> None:
        """Asks until the attempt is not at work. Raises Unavailable when no answer comes for `away_seconds`."""
        last_answer = time.monotonic()
        while True:
            try:
                if not await self._stop(_attempt(job)):
                    return
                last_answer = time.monotonic()
            except grpc.aio.AioRpcError as error:
                if time.monotonic() - last_answer >= away_seconds:
                    raise Unavailable(f"it cannot be asked: {error.code().name}", reason="STAGE_AWAY") from error
            await asyncio.sleep(STOP_PAUSE_SECONDS)

    def _event(self, message: Any) -> StageEvent:  # noqa: ANN401 - one of five messages
        match message.WhichOneof("event"):
            case "progress":
                progress = getattr(message.progress, "progress", message.progress)  # the denoiser's is nested
                unfinished = progress.step < progress.total_steps
                begins = unfinished and getattr(message.progress, "step_seconds", None) == 0.0
                return Progressed(progress.step, progress.total_steps, begins)
            case "preview":
                preview = message.preview
                return Previewed(preview.jpeg, ref_from_proto(preview.sound) if preview.HasField("sound") else None)
            case "result":
                return self._finished(message.result)
            case _:
                return Alive()

    def _finished(self, result: Any) -> Finished:  # noqa: ANN401 - one of five messages
        return Finished(
            refs={name: ref_from_proto(getattr(result, name)) for name in self._outputs},
            load_seconds=result.usage.load_seconds,
            gpu_seconds=result.usage.gpu_seconds,
            duration_seconds=getattr(result, "duration_seconds", 0.0),
        )


def _told_or_lost(error: grpc.aio.AioRpcError, *, heard: bool) -> SoundstageError:
    """What the service told; without a word from it, a stage that died at its work or one that was never reached."""
    told = error_from_rpc(error)
    if not isinstance(told, Unavailable) or told.reason != error.code().name:
        return told
    details = error.details() or ""
    if heard or any(broken in details for broken in BROKEN):
        return Unavailable("the stage was lost at its work", reason=STAGE_LOST)
    return Unavailable(f"the stage cannot be reached: {details}", reason="STAGE_AWAY")


@dataclass(frozen=True)
class StageChannels:
    """Open channels to the four services that hold the five stages."""

    encoder: grpc.aio.Channel
    denoiser: grpc.aio.Channel
    audio: grpc.aio.Channel
    muxer: grpc.aio.Channel

    async def close(self) -> None:
        for channel in (self.encoder, self.denoiser, self.audio, self.muxer):
            await channel.close()


def grpc_stages(channels: StageChannels, silence_seconds: float = SILENCE_SECONDS) -> dict[Stage, StageClient]:
    encoder = encoder_pb2_grpc.EncoderServiceStub(channels.encoder)
    denoiser = denoiser_pb2_grpc.DenoiserServiceStub(channels.denoiser)
    audio = audio_pb2_grpc.AudioServiceStub(channels.audio)
    muxer = muxer_pb2_grpc.MuxerServiceStub(channels.muxer)
    stop_encoder = _stop(encoder.Stop, encoder_pb2.StopRequest)
    stop_denoiser = _stop(denoiser.Stop, denoiser_pb2.StopRequest)
    stop_audio = _stop(audio.Stop, audio_pb2.StopRequest)
    stop_muxer = _stop(muxer.Stop, muxer_pb2.StopRequest)
    return {
        Stage.ENCODE: GrpcStage(encoder.Encode, encode_request, ("conditioning",), stop_encoder, silence_seconds),
        Stage.DENOISE: GrpcStage(denoiser.Denoise, denoise_request, ("latents",), stop_denoiser, silence_seconds),
        Stage.RENDER: GrpcStage(muxer.Render, render_request, ("picture",), stop_muxer, silence_seconds),
        Stage.SYNTHESIZE: GrpcStage(audio.Synthesize, synthesize_request, ("sound",), stop_audio, silence_seconds),
        Stage.MUX: GrpcStage(muxer.Mux, mux_request, ("video", "poster"), stop_muxer, silence_seconds),
    }


def _stop(rpc: Callable[..., Awaitable[Any]], request: Callable[..., Any]) -> Stop:
    async def stop(attempt: artifact_pb2.Attempt) -> bool:
        answer = await rpc(request(attempt=attempt), timeout=STOP_CALL_SECONDS, metadata=trace_metadata())
        return bool(answer.at_work)

    return stop


def encode_request(job: Job) -> encoder_pb2.EncodeRequest:
    spec = job.spec
    return encoder_pb2.EncodeRequest(
        attempt=_attempt(job),
        model=spec.model,
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        image=None if job.image is None else ref_to_proto(job.image),
        width=spec.width,
        height=spec.height,
        num_frames=spec.num_frames,
    )


def denoise_request(job: Job) -> denoiser_pb2.DenoiseRequest:
    spec = job.spec
    request = denoiser_pb2.DenoiseRequest(
        attempt=_attempt(job),
        model=spec.model,
        conditioning=ref_to_proto(job.inputs["conditioning"]),
        width=spec.width,
        height=spec.height,
        num_frames=spec.num_frames,
        fps=spec.fps,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        seed=spec.seed,
        preview_every_steps=job.preview_every_steps,
        preview_sound=spec.preview_sound,
        priority=DENOISER_PRIORITY[job.priority],
        lora=None if spec.lora is None else _lora(spec.lora),
    )
    if job.deadline is not None:
        request.deadline.FromDatetime(job.deadline)
    return request


def render_request(job: Job) -> muxer_pb2.RenderRequest:
    fps = Fraction(job.spec.fps).limit_denominator(MAX_FPS_DENOMINATOR)
    return muxer_pb2.RenderRequest(
        attempt=_attempt(job),
        model=job.spec.model,
        latents=ref_to_proto(job.inputs["latents"]),
        num_frames=job.spec.num_frames,
        fps_numerator=fps.numerator,
        fps_denominator=fps.denominator,
        priority=MUXER_PRIORITY[job.priority],
    )


def synthesize_request(job: Job) -> audio_pb2.SynthesizeRequest:
    return audio_pb2.SynthesizeRequest(
        attempt=_attempt(job),
        model=job.spec.model,
        picture=ref_to_proto(job.inputs["picture"]),
        prompt=job.spec.prompt,
        intent=AUDIO_INTENT[job.spec.audio_intent],
        seed=job.spec.seed,
        latents=ref_to_proto(job.inputs["latents"]) if job.spec.joint_audio else None,
    )


def mux_request(job: Job) -> muxer_pb2.MuxRequest:
    return muxer_pb2.MuxRequest(
        attempt=_attempt(job),
        picture=ref_to_proto(job.inputs["picture"]),
        sound=ref_to_proto(job.inputs["sound"]),
        title=job.spec.prompt[:TITLE_CHARACTERS],
    )


DENOISER_PRIORITY = {
    Priority.INTERACTIVE: denoiser_pb2.PRIORITY_INTERACTIVE,
    Priority.STANDARD: denoiser_pb2.PRIORITY_STANDARD,
    Priority.BATCH: denoiser_pb2.PRIORITY_BATCH,
}
MUXER_PRIORITY = {
    Priority.INTERACTIVE: muxer_pb2.PRIORITY_INTERACTIVE,
    Priority.STANDARD: muxer_pb2.PRIORITY_STANDARD,
    Priority.BATCH: muxer_pb2.PRIORITY_BATCH,
}
AUDIO_INTENT = {
    AudioIntent.FULL: audio_pb2.AUDIO_INTENT_FULL,
    AudioIntent.AMBIENCE: audio_pb2.AUDIO_INTENT_AMBIENCE,
    AudioIntent.EFFECTS: audio_pb2.AUDIO_INTENT_EFFECTS,
    AudioIntent.SILENT: audio_pb2.AUDIO_INTENT_SILENT,
}


def _lora(lora: Lora) -> denoiser_pb2.Lora:
    return denoiser_pb2.Lora(artifact=ref_to_proto(lora.ref), scale=lora.scale)


def _attempt(job: Job) -> artifact_pb2.Attempt:
    return artifact_pb2.Attempt(tenant=job.key.tenant, video_id=job.key.video_id, attempt=job.attempt)
