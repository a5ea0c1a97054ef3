"""A muxer whose decoder is on Triton."""

from __future__ import annotations

import asyncio
import socket
from fractions import Fraction
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from libs.artifacts import AttemptPrefix, MemoryStore, Ref
from libs.catalog import Catalog
from libs.families import PipelineCache
from libs.serving import Cancelled, RecordingStage
from services.muxer.metrics import MuxerMetrics
from services.muxer.render import Decode, Renderer, RenderJob
from services.muxer.settings import MuxerSettings
from services.muxer.triton import opened_loader

JOB = RenderJob(
    prefix=AttemptPrefix("acme", "v1", "render", "a1"),
    model="diorama",
    latents=Ref("memory://triton/acme/v1/denoise/a1/l", "application/vnd.safetensors", 1, "0" * 64),
    num_frames=24,
    fps=Fraction(12),
    priority=2,
)


async def test_a_cancelled_video_does_not_wait_for_a_server_that_never_answers() -> None:
    """Its model is loaded by its call, and loading asks the server first. No other model can be loaded meanwhile."""
    catalog, stage = Catalog.read(Path("models")), RecordingStage()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = MuxerSettings(triton_addresses={"*": (address,)}, triton_attempts=1, triton_call_seconds=90)
        async with opened_loader(settings, catalog) as load:
            pipelines, metrics = PipelineCache[Decode](load), MuxerMetrics(CollectorRegistry())
            store = MemoryStore("triton")
            renderer = Renderer(store, catalog, pipelines, metrics, threads=1, timeout_seconds=20)
            work = asyncio.create_task(asyncio.to_thread(renderer.render, JOB, stage))
            connection, _ = await asyncio.to_thread(silent.accept)
            with connection:
                stage.cancelled = True
                with pytest.raises(Cancelled):
                    await asyncio.wait_for(work, 60)
