"""The port to what turns short texts into directions. Real: the encoder service, so that no torch is needed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import grpc
import numpy as np
from numpy.typing import NDArray
from soundstage.encoder.v1 import encoder_pb2 as pb
from soundstage.encoder.v1 import encoder_pb2_grpc as rpc

from libs.errors import FailedPrecondition, SoundstageError, Unavailable
from libs.serving import error_from_rpc, trace_metadata

TEXTS_AT_ONCE = 64
"""Much fewer than `Embed` takes: one call must not keep the encoder from its videos for long."""


class Embedder(Protocol):
    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(texts, directions), each row of length 1. Raises Unavailable while it cannot be done."""


class GrpcEmbedder:
    """Asks the encoder service; each call has a deadline."""

    def __init__(self, channel: grpc.aio.Channel, timeout_seconds: float) -> None:
        self._stub = rpc.EncoderServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        batches = [texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE)]
        return np.concatenate([await self._embed(batch) for batch in batches])

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        try:
            answer = await self._stub.Embed(
                pb.EmbedRequest(texts=texts), timeout=self._timeout_seconds, metadata=trace_metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise _away(error_from_rpc(error)) from error
        return np.array([embedding.values for embedding in answer.embeddings], np.float32)


class NoEmbedder:
    """Of a gateway that was not told where the encoder is."""

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise FailedPrecondition(
            f"{len(texts)} texts cannot be looked at: this server was started without an encoder; "
            "set SOUNDSTAGE_GATEWAY_ENCODER_ADDRESS",
            reason="ENCODER_NOT_CONFIGURED",
        )


def _away(error: SoundstageError) -> SoundstageError:
    if isinstance(error, Unavailable):
        return Unavailable(
            "prompts cannot be analysed now, because the encoder does not answer; videos can be created all the same",
            reason="ENCODER_UNAVAILABLE",
        )
    return error
