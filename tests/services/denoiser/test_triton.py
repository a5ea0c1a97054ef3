"""Which loader the settings choose; that with Triton a model is loaded only once it has answered."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from deploy.local.ports import free_ports
from deploy.triton.wheel import SUPPORTED
from libs.artifacts import MemoryStore, Ref
from libs.catalog import Catalog
from libs.errors import FailedPrecondition, Unavailable
from libs.families import PipelineCache, load_denoise
from libs.serving import Cancelled, RecordingStage
from services.denoiser.metrics import DenoiserMetrics
from services.denoiser.settings import DenoiserSettings
from services.denoiser.triton import opened_loader
from tests.support.denoising import small_job, wired_denoiser
from tests.support.light_triton import light_tritonserver


async def test_without_addresses_the_transformer_is_in_this_process(models_dir: Path) -> None:
    async with opened_loader(DenoiserSettings(), Catalog.read(models_dir)) as load:
        assert load.func is load_denoise  # type: ignore[attr-defined]  # a partial


async def test_a_server_that_is_not_there_loads_nothing(models_dir: Path) -> None:
    (port,) = free_ports(1)
    settings = DenoiserSettings(triton_addresses={"diorama": (f"127.0.0.1:{port}",)}, triton_attempts=1)
    async with opened_loader(settings, Catalog.read(models_dir)) as load:
        with pytest.raises(Unavailable) as raised:
            await asyncio.to_thread(load, models_dir / "diorama", "diorama")
    assert raised.value.reason == "TRITON_UNAVAILABLE"


@pytest.mark.skipif(not SUPPORTED, reason="tritonserver's wheel is for x86-64 Linux")
async def test_a_server_without_the_model_loads_nothing(models_dir: Path, tmp_path: Path) -> None:
    with light_tritonserver(tmp_path) as server:
        settings = DenoiserSettings(triton_addresses={"*": (server.address,)}, triton_attempts=2)
        async with opened_loader(settings, Catalog.read(models_dir)) as load:
            with pytest.raises(FailedPrecondition) as raised:
                await asyncio.to_thread(load, models_dir / "diorama", "diorama")
    assert (raised.value.reason, raised.value.metadata["model"]) == ("TRITON_MODEL_MISSING", "diorama_transformer")


JOB = small_job(Ref("memory://triton/acme/v1/encode/a1/c", "application/vnd.safetensors", 1, "0" * 64), steps=2)


async def test_a_cancelled_video_does_not_wait_for_a_server_that_never_answers(models_dir: Path) -> None:
    """Its model is loaded by its call, and loading asks the server first. No other model can be loaded meanwhile."""
    catalog, stage = Catalog.read(models_dir), RecordingStage()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = DenoiserSettings(triton_addresses={"*": (address,)}, triton_attempts=1, triton_call_seconds=90)
        async with opened_loader(settings, catalog) as load:
            pipelines, metrics = PipelineCache(load), DenoiserMetrics(CollectorRegistry())
            denoiser = wired_denoiser(MemoryStore("triton"), catalog, pipelines, metrics, settings)
            work = asyncio.create_task(asyncio.to_thread(denoiser.denoise, JOB, stage))
            connection, _ = await asyncio.to_thread(silent.accept)
            with connection:
                stage.cancelled = True
                with pytest.raises(Cancelled):
                    await asyncio.wait_for(work, 60)
