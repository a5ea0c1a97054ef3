"""Which loader the settings choose; that with Triton a model is loaded only once it has answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deploy.local.ports import free_ports
from deploy.triton.wheel import SUPPORTED
from libs.catalog import Catalog
from libs.errors import FailedPrecondition, Unavailable
from libs.families import load_denoise
from services.denoiser.settings import DenoiserSettings
from services.denoiser.triton import opened_loader
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
