"""References between dataclasses and protobuf."""

from __future__ import annotations

from soundstage.artifact.v1 import artifact_pb2

from libs.artifacts.ref import AttemptPrefix, Ref

__all__ = ["prefix_from_proto", "ref_from_proto", "ref_to_proto"]


def ref_to_proto(ref: Ref) -> artifact_pb2.Artifact:
    return artifact_pb2.Artifact(uri=ref.uri, media_type=ref.media_type, size_bytes=ref.size_bytes, sha256=ref.sha256)


def ref_from_proto(message: artifact_pb2.Artifact) -> Ref:
    return Ref(message.uri, message.media_type, message.size_bytes, message.sha256)


def prefix_from_proto(attempt: artifact_pb2.Attempt, stage: str) -> AttemptPrefix:
    return AttemptPrefix(attempt.tenant, attempt.video_id, stage, attempt.attempt)
