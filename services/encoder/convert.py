"""Protobuf to dataclasses and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from soundstage.artifact.v1 import artifact_pb2
from soundstage.encoder.v1 import encoder_pb2 as pb

from libs.artifacts import prefix_from_proto, ref_from_proto, ref_to_proto
from libs.serving import Done, Heartbeat, Progress
from services.encoder.encode import Encoded, EncodeJob

__all__ = ["directions_to_proto", "job_from_proto", "response_to_proto"]


def job_from_proto(request: pb.EncodeRequest) -> EncodeJob:
    return EncodeJob(
        prefix=prefix_from_proto(request.attempt, "encode"),
        model=request.model,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        image=ref_from_proto(request.image) if request.HasField("image") else None,
        width=request.width,
        height=request.height,
        num_frames=request.num_frames,
    )


def response_to_proto(event: object) -> pb.EncodeResponse:
    match event:
        case Heartbeat(elapsed_seconds):
            return pb.EncodeResponse(heartbeat=artifact_pb2.Heartbeat(elapsed_seconds=elapsed_seconds))
        case Progress(step, total_steps):
            return pb.EncodeResponse(progress=artifact_pb2.Progress(step=step, total_steps=total_steps))
        case Done(Encoded(conditioning, load_seconds, gpu_seconds), wall_seconds):
            usage = artifact_pb2.Usage(wall_seconds=wall_seconds, load_seconds=load_seconds, gpu_seconds=gpu_seconds)
            return pb.EncodeResponse(result=pb.EncodeResult(conditioning=ref_to_proto(conditioning), usage=usage))
        case _:
            raise TypeError(f"no EncodeResponse for {event!r}")


def directions_to_proto(directions: NDArray[np.float32]) -> pb.EmbedResponse:
    return pb.EmbedResponse(embeddings=[pb.Embedding(values=row.tolist()) for row in directions])
