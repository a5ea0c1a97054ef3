"""Where transformers run: in this process, or on Triton."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from libs.catalog import Catalog
from libs.families import load_denoise, load_remote_transformers
from libs.triton import TritonPools
from services.denoiser.settings import DenoiserSettings

if TYPE_CHECKING:
    from libs.families.pipelines import DenoisePipeline

__all__ = ["LoadDenoise", "opened_loader"]

LoadDenoise = Callable[[Path, str], "DenoisePipeline"]
"""(model folder, family) -> its denoise loop."""


@asynccontextmanager
async def opened_loader(settings: DenoiserSettings, catalog: Catalog) -> AsyncIterator[LoadDenoise]:
    """What loads a model's loop; with ``triton_addresses`` without its transformers, which then run there.

    The connections to Triton live as long as the `with`.
    """
    load = partial(load_denoise, cache_threshold=settings.feature_cache_threshold)
    if not settings.triton_addresses:
        yield load
        return
    async with TritonPools(settings.triton_addresses, settings.triton_options) as pools:
        yield partial(_load, catalog, pools, load)


def _load(
    catalog: Catalog, pools: TritonPools, load: Callable[..., DenoisePipeline], model_dir: Path, family: str
) -> DenoisePipeline:
    """Not before Triton has answered a real inference: its own readiness stays true when a model's process is dead."""
    triton = pools.of(model_dir.name)
    if triton is None:
        return load(model_dir, family)
    transformers = load_remote_transformers(model_dir, family, triton.infer)
    limits = catalog.get(model_dir.name).limits
    width, height = limits.sizes[0]
    for transformer in transformers.values():
        transformer.remote.probe(width, height, round(limits.min_duration_seconds * limits.fps[0]))
    return load(model_dir, family, transformers)
