"""Protobuf to dataclasses and back."""

from __future__ import annotations

from fractions import Fraction

from soundstage.artifact.v1 import artifact_pb2
from soundstage.muxer.v1 import muxer_pb2 as pb

from libs.artifacts import prefix_from_proto, ref_from_proto, ref_to_proto
from libs.serving import Done, Heartbeat, Progress
from services.muxer.mux import Muxed, MuxJob
from services.muxer.render import Rendered, RenderJob

__all__ = ["mux_job_from_proto", "mux_response_to_proto", "render_job_from_proto", "render_response_to_proto"]


def render_job_from_proto(request: pb.RenderRequest) -> RenderJob:
    return RenderJob(
        prefix=prefix_from_proto(request.attempt, "render"),
        model=request.model,
        latents=ref_from_proto(request.latents),
        num_frames=request.num_frames,
        fps=Fraction(request.fps_numerator, request.fps_denominator),
        priority=request.priority or pb.PRIORITY_STANDARD,
    )


def mux_job_from_proto(request: pb.MuxRequest) -> MuxJob:
    return MuxJob(
        prefix=prefix_from_proto(request.attempt, "mux"),
        picture=ref_from_proto(request.picture),
        sound=ref_from_proto(request.sound),
        title=request.title,
    )


def render_response_to_proto(event: object) -> pb.RenderResponse:
    match event:
        case Heartbeat(elapsed_seconds):
            return pb.RenderResponse(heartbeat=artifact_pb2.Heartbeat(elapsed_seconds=elapsed_seconds))
        case Progress(step, total_steps):
            return pb.RenderResponse(progress=artifact_pb2.Progress(step=step, total_steps=total_steps))
        case Done(Rendered(picture, load_seconds, gpu_seconds), wall_seconds):
            usage = artifact_pb2.Usage(wall_seconds=wall_seconds, load_seconds=load_seconds, gpu_seconds=gpu_seconds)
            return pb.RenderResponse(result=pb.RenderResult(picture=ref_to_proto(picture), usage=usage))
        case _:
            raise TypeError(f"no RenderResponse for {event!r}")


def mux_response_to_proto(event: object) -> pb.MuxResponse:
    match event:
        case Heartbeat(elapsed_seconds):
            return pb.MuxResponse(heartbeat=artifact_pb2.Heartbeat(elapsed_seconds=elapsed_seconds))
        case Progress(step, total_steps):
            return pb.MuxResponse(progress=artifact_pb2.Progress(step=step, total_steps=total_steps))
        case Done(Muxed(video, poster, duration_seconds), wall_seconds):
            return pb.MuxResponse(
                result=pb.MuxResult(
                    video=ref_to_proto(video),
                    poster=ref_to_proto(poster),
                    duration_seconds=duration_seconds,
                    usage=artifact_pb2.Usage(wall_seconds=wall_seconds),
                )
            )
        case _:
            raise TypeError(f"no MuxResponse for {event!r}")
