"""All of Soundstage in this process: the gateway and the four stage services on real ports, Temporal beside them.

For models that the services' own processes would only be slow to start with: torch and diffusers are imported once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry
from soundstage.audio.v1 import audio_pb2_grpc
from soundstage.denoiser.v1 import denoiser_pb2_grpc
from soundstage.encoder.v1 import encoder_pb2_grpc
from soundstage.muxer.v1 import muxer_pb2_grpc

from deploy.local.state import State
from libs.artifacts import FolderStore
from libs.catalog import Catalog
from libs.families import PipelineCache, load_decode, load_denoise, load_encode, load_sentences, load_sound
from libs.serving import Endpoint, ServiceSettings, running
from services.audio import servicer as audio
from services.audio.metrics import AudioMetrics
from services.audio.settings import AudioSettings
from services.audio.synthesize import Synthesizer
from services.denoiser import servicer as denoiser
from services.denoiser.metrics import DenoiserMetrics
from services.denoiser.settings import DenoiserSettings
from services.encoder import servicer as encoder
from services.encoder.embed import Embedder
from services.encoder.encode import Encoder
from services.encoder.metrics import EncoderMetrics
from services.encoder.picture import ImageLimits
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import Gateway
from services.muxer import servicer as muxer
from services.muxer.metrics import MuxerMetrics
from services.muxer.mux import Muxer
from services.muxer.render import Renderer
from services.muxer.settings import MuxerSettings
from tests.support.denoising import wired_denoiser
from tests.support.temporal import serving_temporal

__all__ = ["serving_soundstage"]

READY_SECONDS = STOPPED_SECONDS = 120.0


@contextmanager
def serving_soundstage(state: State, models_dir: Path, default_model: str) -> Iterator[str]:
    """The gateway's address, as long as the block. Servers run in a thread of their own, for callers that block."""
    state.make_folders()
    ready: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve(temporal: str) -> None:
        stop = asyncio.Event()
        async with (
            _stages(state, models_dir) as stages,
            _gateway(state, models_dir, default_model, temporal, stages) as at,
        ):
            ready.set_result((at, asyncio.get_running_loop(), stop))
            await stop.wait()

    def run(temporal: str) -> None:
        try:
            asyncio.run(serve(temporal))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    with serving_temporal(state.folder) as temporal:
        thread = threading.Thread(target=run, args=(temporal,), name="soundstage", daemon=True)
        thread.start()
        address, loop, stop = ready.result(READY_SECONDS)
        try:
            yield address
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(STOPPED_SECONDS)
            assert not thread.is_alive(), "every server stops when it is asked to"


@asynccontextmanager
async def _stages(state: State, models_dir: Path) -> AsyncIterator[str]:
    """All four on one port."""
    store, catalog = FolderStore(state.artifacts), Catalog.read(models_dir)
    endpoints = [part(store, catalog) for part in (_encoder, _denoiser, _audio, _muxer)]
    async with running(ServiceSettings(grace_seconds=2), endpoints, registry=CollectorRegistry()) as server:
        yield server.address


@asynccontextmanager
async def _gateway(
    state: State, models_dir: Path, default_model: str, temporal_address: str, stages: str
) -> AsyncIterator[str]:
    settings = GatewaySettings(
        artifacts_url=state.artifacts.as_uri(),
        models_dir=models_dir,
        default_model=default_model,
        database_url=f"sqlite+aiosqlite:///{state.records}",
        temporal_address=temporal_address,
        encoder_address=stages,
        denoiser_address=stages,
        audio_address=stages,
        muxer_address=stages,
        grace_seconds=2,
    )
    gateway = Gateway(settings)
    async with running(
        settings, gateway.endpoints, start=gateway.start, stop=gateway.stop, registry=CollectorRegistry()
    ) as server:
        yield server.address


def _encoder(store: FolderStore, catalog: Catalog) -> Endpoint:
    metrics = EncoderMetrics(CollectorRegistry())
    work = Encoder(store, catalog, PipelineCache(load_encode), metrics, ImageLimits(1 << 20, 1_000_000))
    servicer = encoder.EncoderServicer(work, Embedder(load_sentences, metrics))
    return Endpoint(encoder.SERVICE_NAME, servicer, encoder_pb2_grpc.add_EncoderServiceServicer_to_server)


def _denoiser(store: FolderStore, catalog: Catalog) -> Endpoint:
    settings, metrics = DenoiserSettings(), DenoiserMetrics(CollectorRegistry())
    work = wired_denoiser(store, catalog, PipelineCache(load_denoise), metrics, settings)
    servicer = denoiser.DenoiserServicer(work)
    return Endpoint(denoiser.SERVICE_NAME, servicer, denoiser_pb2_grpc.add_DenoiserServiceServicer_to_server)


def _audio(store: FolderStore, catalog: Catalog) -> Endpoint:
    most = AudioSettings().max_picture_mib << 20
    metrics = AudioMetrics(CollectorRegistry())
    work = Synthesizer(store, catalog, PipelineCache(load_sound), metrics, max_picture_bytes=most)
    return Endpoint(audio.SERVICE_NAME, audio.AudioServicer(work), audio_pb2_grpc.add_AudioServiceServicer_to_server)


def _muxer(store: FolderStore, catalog: Catalog) -> Endpoint:
    settings, metrics = MuxerSettings(), MuxerMetrics(CollectorRegistry())
    seconds = settings.media_timeout_seconds
    renderer = Renderer(
        store, catalog, PipelineCache(load_decode), metrics, threads=settings.encoder_threads, timeout_seconds=seconds
    )
    servicer = muxer.MuxerServicer(renderer, Muxer(store, metrics, timeout_seconds=seconds))
    return Endpoint(muxer.SERVICE_NAME, servicer, muxer_pb2_grpc.add_MuxerServiceServicer_to_server)
