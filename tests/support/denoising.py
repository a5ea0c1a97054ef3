"""A denoiser wired as its process wires it, around a store and pipelines of the test's own."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from libs.artifacts import AttemptPrefix, Ref, Store
from libs.catalog import Catalog
from libs.families import PipelineCache
from services.denoiser.checkpoints import Checkpoints
from services.denoiser.denoise import DenoiseJob, Denoiser
from services.denoiser.loras import Loras
from services.denoiser.metrics import DenoiserMetrics
from services.denoiser.settings import DenoiserSettings

if TYPE_CHECKING:
    from libs.families.pipelines import DenoisePipeline

__all__ = ["small_job", "wired_denoiser"]


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


def small_job(conditioning: Ref, steps: int) -> DenoiseJob:
    """For the tiny Diorama."""
    return DenoiseJob(
        prefix=AttemptPrefix("acme", "v1", "denoise", "a1"),
        model="diorama",
        conditioning=conditioning,
        width=32,
        height=32,
        num_frames=12,
        fps=12.0,
        num_inference_steps=steps,
        guidance_scale=3.0,
        seed=1,
        preview_every_steps=0,
        priority=2,
        deadline=inf,
    )
