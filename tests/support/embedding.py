"""A real encoder service on a free port, for tests of what asks it for directions of texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry
from soundstage.encoder.v1 import encoder_pb2_grpc as rpc

from libs.artifacts import MemoryStore
from libs.catalog import Catalog
from libs.families import PipelineCache, load_encode, load_sentences, use_threads
from libs.serving import Endpoint, running
from services.encoder.embed import Embedder
from services.encoder.encode import Encoder
from services.encoder.metrics import EncoderMetrics
from services.encoder.picture import ImageLimits
from services.encoder.servicer import SERVICE_NAME, EncoderServicer
from services.encoder.settings import EncoderSettings

__all__ = ["serving_encoder"]


@asynccontextmanager
async def serving_encoder() -> AsyncIterator[str]:
    """host:port. Models are loaded only if somebody asks for them."""
    registry = CollectorRegistry()
    metrics = EncoderMetrics(registry)
    limits = ImageLimits(1 << 20, 1_000_000)
    encoder = Encoder(MemoryStore(), Catalog.read(Path("models")), PipelineCache(load_encode), metrics, limits)
    use_threads(1)  # on a busy machine more of them only wait for each other
    embedder = Embedder(load_sentences, metrics)
    await asyncio.to_thread(embedder.warm)
    endpoint = Endpoint(SERVICE_NAME, EncoderServicer(encoder, embedder), rpc.add_EncoderServiceServicer_to_server)
    async with running(EncoderSettings(grace_seconds=0.5), [endpoint], registry=registry) as server:
        yield server.address
