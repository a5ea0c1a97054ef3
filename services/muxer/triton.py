"""Where latents become frames: in this process, or on Triton."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from libs.catalog import Catalog
from libs.families import load_decode, load_remote_decoder
from libs.triton import TritonPools
from services.muxer.render import Decode
from services.muxer.settings import MuxerSettings

__all__ = ["LoadDecode", "opened_loader"]

LoadDecode = Callable[[Path, str], Decode]
"""(model folder, family) -> its decoder."""


@asynccontextmanager
async def opened_loader(settings: MuxerSettings, catalog: Catalog) -> AsyncIterator[LoadDecode]:
    """What loads a model's decoder; with ``triton_addresses`` without its weights, which are then there.

    The connections to Triton live as long as the `with`.
    """
    if not settings.triton_addresses:
        yield load_decode
        return
    async with TritonPools(settings.triton_addresses, settings.triton_options) as pools:
        yield partial(_load, catalog, pools)


def _load(catalog: Catalog, pools: TritonPools, model_dir: Path, family: str) -> Decode:
    """Not before Triton has answered a real inference: its own readiness stays true when a model's process is dead."""
    triton = pools.of(model_dir.name)
    if triton is None:
        return load_decode(model_dir, family)
    decoder = load_remote_decoder(model_dir, family, triton.infer)
    limits = catalog.get(model_dir.name).limits
    width, height = limits.sizes[0]
    decoder.remote.probe(width, height, round(limits.min_duration_seconds * limits.fps[0]))
    return load_decode(model_dir, family, decoder)
