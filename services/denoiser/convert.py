"""Protobuf to dataclasses and back."""

from __future__ import annotations

import math

from soundstage.artifact.v1 import artifact_pb2
from soundstage.denoiser.v1 import denoiser_pb2 as pb

from libs.artifacts import prefix_from_proto, ref_from_proto, ref_to_proto
from libs.serving import Done, Heartbeat
from services.denoiser.checkpoints import Written
from services.denoiser.denoise import Denoised, DenoiseJob, Preview, Queued, StepDone
from services.denoiser.loras import Lora

__all__ = ["job_from_proto", "response_to_proto"]


def job_from_proto(request: pb.DenoiseRequest) -> DenoiseJob:
    return DenoiseJob(
        prefix=prefix_from_proto(request.attempt, "denoise"),
        model=request.model,
        conditioning=ref_from_proto(request.conditioning),
        width=request.width,
        height=request.height,
        num_frames=request.num_frames,
        fps=request.fps,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        seed=request.seed,
        preview_every_steps=request.preview_every_steps,
        priority=request.priority or pb.PRIORITY_STANDARD,
        deadline=request.deadline.ToNanoseconds() / 1e9 if request.HasField("deadline") else math.inf,
        checkpoint=ref_from_proto(request.checkpoint) if request.HasField("checkpoint") else None,
        lora=Lora(ref_from_proto(request.lora.artifact), request.lora.scale) if request.HasField("lora") else None,
        preview_sound=request.preview_sound,
    )


def response_to_proto(event: object) -> pb.DenoiseResponse:
    match event:
        case Heartbeat(elapsed_seconds):
            return pb.DenoiseResponse(heartbeat=artifact_pb2.Heartbeat(elapsed_seconds=elapsed_seconds))
        case StepDone(step, total_steps, seconds):
            progress = artifact_pb2.Progress(step=step, total_steps=total_steps)
            return pb.DenoiseResponse(progress=pb.DenoiseProgress(progress=progress, step_seconds=seconds))
        case Preview(step, jpeg, sound):
            artifact = None if sound is None else ref_to_proto(sound)
            return pb.DenoiseResponse(preview=pb.DenoisePreview(step=step, jpeg=jpeg, sound=artifact))
        case Queued(before):
            return pb.DenoiseResponse(queued=pb.DenoiseQueued(before=before))
        case Written(step, ref):
            return pb.DenoiseResponse(checkpoint=pb.DenoiseCheckpoint(step=step, checkpoint=ref_to_proto(ref)))
        case Done(Denoised(latents, load_seconds, gpu_seconds), wall_seconds):
            usage = artifact_pb2.Usage(wall_seconds=wall_seconds, load_seconds=load_seconds, gpu_seconds=gpu_seconds)
            return pb.DenoiseResponse(result=pb.DenoiseResult(latents=ref_to_proto(latents), usage=usage))
        case _:
            raise TypeError(f"no DenoiseResponse for {event!r}")
