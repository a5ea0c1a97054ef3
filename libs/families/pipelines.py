"""The stages as callables: one thin shell over a family's Modular Diffusers blocks each.

All run in float32 under ``torch.inference_mode`` and may be called from several threads at once: a call builds its own
diffusers pipeline around the shared weights (milliseconds), because schedulers keep the state of one run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from libs.families.diorama.denoising import to_uint8
from libs.families.modular import Components
from libs.families.step import OnStep
from libs.families.stopping import LoopStopped
from libs.families.table import StageBlocks, family_named

__all__ = ["DecodePipeline", "DenoisePipeline", "EncodePipeline"]


class EncodePipeline:
    def __init__(self, model_dir: Path, family: str) -> None:
        self._stage = family_named(family).encode
        self._components = self._stage.load(model_dir)

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str,
        negative_prompt: str,
        image: NDArray[np.uint8] | None,
        width: int,
        height: int,
        num_frames: int,  # noqa: ARG002  # part of every family's contract; Diorama's conditioning is the same for all
    ) -> dict[str, NDArray[Any]]:
        """Conditioning tensors by name. ``image`` is (H, W, 3) of any size; it is cropped and scaled."""
        outputs = _pipeline(self._stage, self._components)(
            prompt=prompt,
            negative_prompt=negative_prompt,
            image=image,
            width=width,
            height=height,
            output=list(self._stage.gives),
        )
        return _to_numpy(outputs)


class DenoisePipeline:
    """``transformer`` is the pluggable component: any module called like the family's own, with its config."""

    def __init__(self, model_dir: Path, family: str, transformer: nn.Module | None = None) -> None:
        self._family = family_named(family)
        self._components = self._family.denoise.load(model_dir)
        self._components["transformer"] = transformer or self._family.load_transformer(model_dir)

    @torch.inference_mode()
    def __call__(
        self,
        conditioning: Mapping[str, NDArray[Any]],
        *,
        width: int,
        height: int,
        num_frames: int,
        fps: float,  # noqa: ARG002  # part of every family's contract; Diorama knows one rate only
        num_inference_steps: int,
        guidance_scale: float,
        seed: int,
        preview_every_steps: int,
        on_step: OnStep,
    ) -> dict[str, NDArray[np.float32]]:
        """Denoise one video: {"latents": (1, C, F, h, w) float32}; the same arguments give the same bits.

        ``on_step`` is called after each step; what it raises ends the loop and is raised here. Raises
        FailedPrecondition when ``conditioning`` does not fit.
        """
        self._family.check_conditioning(conditioning, self._components, width, height)
        try:
            outputs = _pipeline(self._family.denoise, self._components)(
                **{name: torch.from_numpy(tensor) for name, tensor in conditioning.items()},
                width=width,
                height=height,
                num_frames=self._family.frames_made(num_frames),
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                generator=torch.Generator("cpu").manual_seed(seed),
                preview_every_steps=preview_every_steps,
                on_step=on_step,
                output=list(self._family.denoise.gives),
            )
        except LoopStopped as stopped:
            raise stopped.cause from None
        return _to_numpy(outputs)


class DecodePipeline:
    def __init__(self, model_dir: Path, family: str) -> None:
        self._family = family_named(family)
        self._components = self._family.decode.load(model_dir)

    def __call__(self, latents: Mapping[str, NDArray[Any]], num_frames: int) -> Iterator[NDArray[np.uint8]]:
        """Frames in order, in chunks (t, H, W, 3) uint8, ``num_frames`` in all.

        Each chunk is made when it is asked for, so that whoever reads them can tell of progress or stop in between.
        Raises FailedPrecondition LATENTS_UNFIT, at once, when ``latents`` do not fit.
        """
        self._family.check_latents(latents, self._components, num_frames)
        return self._frames(torch.from_numpy(latents["latents"]), num_frames)

    def _frames(self, latents: Tensor, num_frames: int) -> Iterator[NDArray[np.uint8]]:
        stage, left = self._family.decode, num_frames
        for chunk in _pipeline(stage, self._components)(latents=latents, output=stage.gives[0]):
            frames = to_uint8(chunk[0, :, :left])
            left -= len(frames)
            yield frames
            if not left:
                return


def _pipeline(stage: StageBlocks, components: Mapping[str, Any]) -> Components:
    pipeline: Components = stage.blocks().init_pipeline()
    own = {name: copy.deepcopy(part) if name == "scheduler" else part for name, part in components.items()}
    pipeline.update_components(**own)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _to_numpy(outputs: Mapping[str, Tensor | None]) -> dict[str, NDArray[Any]]:
    return {name: tensor.contiguous().numpy() for name, tensor in outputs.items() if tensor is not None}
