"""Starts the muxer: settings, objects, server."""

from __future__ import annotations

import asyncio

from soundstage.muxer.v1 import muxer_pb2_grpc as rpc

from libs.artifacts import open_store
from libs.catalog import Catalog
from libs.families import PipelineCache, use_threads
from libs.serving import Endpoint, configure_logging, in_passing_thread, serve, tracing
from services.muxer.metrics import MuxerMetrics
from services.muxer.mux import Muxer
from services.muxer.render import Renderer
from services.muxer.servicer import SERVICE_NAME, MuxerServicer
from services.muxer.settings import MuxerSettings
from services.muxer.triton import opened_loader


async def main() -> None:
    settings = MuxerSettings()
    configure_logging(settings, "muxer")
    store = open_store(
        settings.artifacts_url,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        public_endpoint=settings.s3_public_endpoint,
        ca=settings.s3_ca,
    )
    catalog = Catalog.read(settings.models_dir)
    metrics = MuxerMetrics()
    timeout_seconds = settings.media_timeout_seconds
    async with opened_loader(settings, catalog) as load:
        renderer = Renderer(
            store,
            catalog,
            PipelineCache(load),
            metrics,
            threads=settings.encoder_threads,
            timeout_seconds=timeout_seconds,
        )
        servicer = MuxerServicer(
            renderer, Muxer(store, metrics, timeout_seconds=timeout_seconds), settings.heartbeat_seconds
        )

        async def start() -> None:
            await in_passing_thread(use_threads, settings.torch_threads)
            models = catalog.names() if settings.warm_models is None else settings.warm_models
            await in_passing_thread(renderer.warm, models)

        endpoint = Endpoint(SERVICE_NAME, servicer, rpc.add_MuxerServiceServicer_to_server)
        with tracing(settings, "muxer"):
            await serve(settings, [endpoint], start=start)


if __name__ == "__main__":
    asyncio.run(main())
