"""Starts the audio service: settings, objects, server."""

from __future__ import annotations

import asyncio

from soundstage.audio.v1 import audio_pb2_grpc as rpc

from libs.artifacts import open_store
from libs.catalog import Catalog
from libs.families import PipelineCache, load_sound, use_threads
from libs.serving import Endpoint, configure_logging, in_passing_thread, serve, tracing
from services.audio.metrics import AudioMetrics
from services.audio.servicer import SERVICE_NAME, AudioServicer
from services.audio.settings import AudioSettings
from services.audio.synthesize import Synthesizer


async def main() -> None:
    settings = AudioSettings()
    configure_logging(settings, "audio")
    store = open_store(
        settings.artifacts_url,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        public_endpoint=settings.s3_public_endpoint,
        ca=settings.s3_ca,
    )
    catalog = Catalog.read(settings.models_dir)
    synthesizer = Synthesizer(
        store, catalog, PipelineCache(load_sound), AudioMetrics(), max_picture_bytes=settings.max_picture_mib << 20
    )
    servicer = AudioServicer(synthesizer, settings.heartbeat_seconds)

    async def start() -> None:
        await in_passing_thread(use_threads, settings.torch_threads)
        models = catalog.names() if settings.warm_models is None else settings.warm_models
        await in_passing_thread(synthesizer.warm, models)

    endpoint = Endpoint(SERVICE_NAME, servicer, rpc.add_AudioServiceServicer_to_server)
    with tracing(settings, "audio"):
        await serve(settings, [endpoint], start=start)


if __name__ == "__main__":
    asyncio.run(main())
