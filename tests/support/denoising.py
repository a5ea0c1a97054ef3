"""A denoiser wired as its process wires it, around a store and pipelines of the test's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libs.artifacts import Store
from libs.catalog import Catalog
from libs.families import PipelineCache
from services.denoiser.checkpoints import Checkpoints
from services.denoiser.denoise import Denoiser
from services.denoiser.loras import Loras
from services.denoiser.metrics import DenoiserMetrics
from services.denoiser.settings import DenoiserSettings

if TYPE_CHECKING:
    from libs.families.pipelines import DenoisePipeline

__all__ = ["wired_denoiser"]


def wired_denoiser(
    store: Store,
    catalog: Catalog,
    pipelines: PipelineCache[DenoisePipeline],
    metrics: DenoiserMetrics,
    settings: DenoiserSettings,
) -> Denoiser:
    checkpoints = Checkpoints(store, metrics, settings.checkpoint_policy)
    loras = Loras(store, settings.lora_limits, metrics)
    return Denoiser(store, catalog, pipelines, metrics, checkpoints, loras, settings.capacity)
