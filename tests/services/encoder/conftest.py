"""A real encoder on a free port, with a tiny model and the memory store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from soundstage.artifact.v1 import artifact_pb2
from soundstage.encoder.v1 import encoder_pb2 as pb
from soundstage.encoder.v1 import encoder_pb2_grpc as rpc

from libs.artifacts import MemoryStore
from libs.catalog import Catalog
from libs.families import PipelineCache, load_encode, load_sentences
from libs.families.pipelines import EncodePipeline
from libs.serving import Endpoint, open_channel, running
from services.encoder.embed import Embedder, Sentences
from services.encoder.encode import Encoder
from services.encoder.metrics import EncoderMetrics
from services.encoder.picture import ImageLimits
from services.encoder.servicer import SERVICE_NAME, EncoderServicer
from services.encoder.settings import EncoderSettings
from tests.support.tiny_diorama import write_tiny_diorama

ATTEMPT = artifact_pb2.Attempt(tenant="acme", video_id="v1", attempt="a1")


@dataclass
class Service:
    """What a test talks to."""

    store: MemoryStore
    registry: CollectorRegistry
    stub: Any

    async def encode(self, **changes: Any) -> list[pb.EncodeResponse]:
        fields: dict[str, Any] = {
            "attempt": ATTEMPT,
            "model": "diorama",
            "prompt": "fire",
            "width": 32,
            "height": 32,
            "num_frames": 12,
        }
        call = self.stub.Encode(pb.EncodeRequest(**fields | changes), timeout=60)
        return [event async for event in call]


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    write_tiny_diorama(models)
    silent = write_tiny_diorama(models, "text-only")
    card = silent / "soundstage.json"
    card.write_text(card.read_text().replace('"image_to_video": true', '"image_to_video": false'))
    of_images = write_tiny_diorama(models, "image-only") / "soundstage.json"
    of_images.write_text(of_images.read_text().replace('"image_to_video"', '"image_required": true, "image_to_video"'))
    return models


@pytest.fixture(scope="session")
def pipelines() -> PipelineCache[EncodePipeline]:
    """Shared by all tests: loading the text encoder takes most of their time."""
    return PipelineCache(load_encode)


@pytest.fixture(scope="session")
def sentences() -> Sentences:
    return load_sentences()


@pytest.fixture
async def service(
    models_dir: Path, pipelines: PipelineCache[EncodePipeline], sentences: Sentences
) -> AsyncIterator[Service]:
    store, registry = MemoryStore("encoder"), CollectorRegistry()
    settings = EncoderSettings(grace_seconds=1.0, heartbeat_seconds=0.05)
    limits = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000)
    metrics = EncoderMetrics(registry)
    encoder = Encoder(store, Catalog.read(models_dir), pipelines, metrics, limits)
    endpoint = Endpoint(
        SERVICE_NAME,
        EncoderServicer(encoder, Embedder(lambda: sentences, metrics), settings.heartbeat_seconds),
        rpc.add_EncoderServiceServicer_to_server,
    )

    async def start() -> None:
        await asyncio.to_thread(encoder.warm, ["diorama"])

    async with (
        running(settings, [endpoint], start=start, registry=registry) as server,
        open_channel(server.address) as channel,
    ):
        yield Service(store, registry, rpc.EncoderServiceStub(channel))
