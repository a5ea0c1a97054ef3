"""Starts the denoiser: settings, objects, server."""

from __future__ import annotations

import asyncio

from soundstage.denoiser.v1 import denoiser_pb2_grpc as rpc

from libs.artifacts import open_store
from libs.catalog import Catalog
from libs.families import PipelineCache, use_threads
from libs.serving import Endpoint, configure_logging, in_passing_thread, serve, telling_pod_cost, tracing
from services.denoiser.checkpoints import Checkpoints
from services.denoiser.denoise import Denoiser
from services.denoiser.loras import Loras
from services.denoiser.metrics import DenoiserMetrics
from services.denoiser.servicer import SERVICE_NAME, DenoiserServicer
from services.denoiser.settings import DenoiserSettings
from services.denoiser.triton import opened_loader


async def main() -> None:
    settings = DenoiserSettings()
    configure_logging(settings, "denoiser")
    store = open_store(
        settings.artifacts_url,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        public_endpoint=settings.s3_public_endpoint,
        ca=settings.s3_ca,
    )
    catalog = Catalog.read(settings.models_dir)
    async with opened_loader(settings, catalog) as load:
        metrics = DenoiserMetrics()
        checkpoints = Checkpoints(store, metrics, settings.checkpoint_policy)
        loras = Loras(store, settings.lora_limits, metrics)
        denoiser = Denoiser(store, catalog, PipelineCache(load), metrics, checkpoints, loras, settings.capacity)
        servicer = DenoiserServicer(denoiser, settings.heartbeat_seconds)

        async def start() -> None:
            await in_passing_thread(use_threads, settings.torch_threads)
            models = catalog.names() if settings.warm_models is None else settings.warm_models
            await in_passing_thread(denoiser.warm, models)

        endpoint = Endpoint(SERVICE_NAME, servicer, rpc.add_DenoiserServiceServicer_to_server)
        async with telling_pod_cost(settings.pod_name):
            with tracing(settings, "denoiser"):
                await serve(settings, [endpoint], start=start, ending=checkpoints.hurry)


if __name__ == "__main__":
    asyncio.run(main())
