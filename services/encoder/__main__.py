"""Starts the encoder: settings, objects, server."""

from __future__ import annotations

import asyncio

from soundstage.encoder.v1 import encoder_pb2_grpc as rpc

from libs.artifacts import open_store
from libs.catalog import Catalog
from libs.families import PipelineCache, load_encode, load_sentences, use_threads
from libs.serving import Endpoint, configure_logging, in_passing_thread, serve, tracing
from services.encoder.embed import Embedder
from services.encoder.encode import Encoder
from services.encoder.metrics import EncoderMetrics
from services.encoder.picture import ImageLimits
from services.encoder.servicer import SERVICE_NAME, EncoderServicer
from services.encoder.settings import EncoderSettings


async def main() -> None:
    settings = EncoderSettings()
    configure_logging(settings, "encoder")
    store = open_store(
        settings.artifacts_url,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        public_endpoint=settings.s3_public_endpoint,
        ca=settings.s3_ca,
    )
    catalog = Catalog.read(settings.models_dir)
    limits = ImageLimits(settings.max_image_mib << 20, settings.max_image_megapixels * 1_000_000)
    metrics = EncoderMetrics()
    encoder = Encoder(store, catalog, PipelineCache(load_encode), metrics, limits)
    embedder = Embedder(load_sentences, metrics)
    servicer = EncoderServicer(encoder, embedder, settings.heartbeat_seconds)

    async def start() -> None:
        await in_passing_thread(use_threads, settings.torch_threads)
        models = catalog.names() if settings.warm_models is None else settings.warm_models
        await in_passing_thread(encoder.warm, models)
        await in_passing_thread(embedder.warm)

    endpoint = Endpoint(SERVICE_NAME, servicer, rpc.add_EncoderServiceServicer_to_server)
    with tracing(settings, "encoder"):
        await serve(settings, [endpoint], start=start)


if __name__ == "__main__":
    asyncio.run(main())
