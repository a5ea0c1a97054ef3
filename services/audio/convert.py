"""Protobuf to dataclasses and back."""

from __future__ import annotations

from dataclasses import asdict

from soundstage.artifact.v1 import artifact_pb2
from soundstage.audio.v1 import audio_pb2 as pb

from libs.artifacts import prefix_from_proto, ref_from_proto, ref_to_proto
from libs.serving import Done, Heartbeat, Progress
from services.audio.synthesize import Intent, Synthesized, SynthesizeJob

__all__ = ["job_from_proto", "response_to_proto"]

_INTENTS: dict[pb.AudioIntent.ValueType, Intent] = {
    pb.AUDIO_INTENT_UNSPECIFIED: "full",
    pb.AUDIO_INTENT_FULL: "full",
    pb.AUDIO_INTENT_AMBIENCE: "ambience",
    pb.AUDIO_INTENT_EFFECTS: "effects",
    pb.AUDIO_INTENT_SILENT: "silent",
}


def job_from_proto(request: pb.SynthesizeRequest) -> SynthesizeJob:
    return SynthesizeJob(
        prefix=prefix_from_proto(request.attempt, "synthesize"),
        model=request.model,
        picture=ref_from_proto(request.picture),
        prompt=request.prompt,
        intent=_INTENTS[request.intent],
        seed=request.seed,
        latents=ref_from_proto(request.latents) if request.HasField("latents") else None,
    )


def response_to_proto(event: object) -> pb.SynthesizeResponse:
    match event:
        case Heartbeat(elapsed_seconds):
            return pb.SynthesizeResponse(heartbeat=artifact_pb2.Heartbeat(elapsed_seconds=elapsed_seconds))
        case Progress(step, total_steps):
            return pb.SynthesizeResponse(progress=artifact_pb2.Progress(step=step, total_steps=total_steps))
        case Done(Synthesized(sound, measures, load_seconds, gpu_seconds), wall_seconds):
            return pb.SynthesizeResponse(
                result=pb.SynthesizeResult(
                    sound=ref_to_proto(sound),
                    measures=pb.SoundMeasures(**asdict(measures)),
                    usage=artifact_pb2.Usage(
                        wall_seconds=wall_seconds, load_seconds=load_seconds, gpu_seconds=gpu_seconds
                    ),
                )
            )
        case _:
            raise TypeError(f"no SynthesizeResponse for {event!r}")
