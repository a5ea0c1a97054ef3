"""What the denoise stage needs of a VAE: its proportions, not its weights."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch

from libs.families.modular import Components, ComponentSpec, ModularPipelineBlocks, Module, PipelineState

__all__ = ["LOADING", "Shape", "VaeShapeStep"]

LOADING = threading.Lock()
"""Held while a model is built: diffusers and transformers replace functions of torch for all threads meanwhile, and two
that do it at once leave parameters without values."""


class Shape:
    """A diffusers model without its weights: what it says of itself (config, compression ratios) and nothing else.

    No ``nn.Module``: a pipeline's tensors are made on the device of the first one among its components.
    """

    def __init__(self, kind: Module, model_dir: Path, subfolder: str) -> None:
        with LOADING, torch.device("meta"):
            self._model = kind.from_config(kind.load_config(model_dir / subfolder, local_files_only=True))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # the model's
        return getattr(self._model, name)


class VaeShapeStep(ModularPipelineBlocks):
    """Diffusers' denoise blocks take sizes from a component ``vae`` that they do not declare; without one they silently
    make latents of another model's size.
    """

    @property
    def description(self) -> str:
        return "Does nothing but declare the VAE, from whose shape the blocks after it derive that of the latents"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", Shape)]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        return components, state
