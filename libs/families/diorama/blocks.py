"""Diorama's blocks by stage, as Modular Diffusers runs them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers.modular_pipelines.wan.before_denoise import WanSetTimestepsStep
from torch import Tensor

from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.diorama.denoising import DioramaDenoiseLoop, DioramaKeepFirstFrameStep, DioramaPrepareStep
from libs.families.diorama.encoding import DioramaTextEncoderStep, DioramaVaeEncoderStep
from libs.families.modular import (
    Components,
    ComponentSpec,
    InputParam,
    ModularPipelineBlocks,
    OutputParam,
    PipelineState,
    SequentialPipelineBlocks,
)

__all__ = ["DioramaDecodeBlocks", "DioramaDenoiseBlocks", "DioramaEncodeBlocks", "DioramaVaeDecoderStep"]


class DioramaVaeDecoderStep(ModularPipelineBlocks):
    model_name = "diorama"

    @property
    def description(self) -> str:
        return "VAE-decoder step: latents to a video in [-1, 1], made chunk by chunk as it is read"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", AutoencoderDiorama)]

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("latents", required=True, type_hint=Tensor, description="(1, C, F, h, w)")]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        chunks = "iterator of (1, 3, t, 16 h, 16 w) in [-1, 1], 4 F - 3 frames in all"
        return [OutputParam("video_chunks", type_hint=Iterator[Tensor], description=chunks)]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        block_state.video_chunks = _clamped(components.vae, block_state.latents)
        self.set_block_state(state, block_state)
        return components, state


@torch.inference_mode()
def _clamped(vae: AutoencoderDiorama, latents: Tensor) -> Iterator[Tensor]:
    for chunk in vae.decode_chunks(latents):
        yield chunk.clamp(-1.0, 1.0)


class DioramaEncodeBlocks(SequentialPipelineBlocks):
    model_name = "diorama"
    block_classes = (DioramaTextEncoderStep, DioramaVaeEncoderStep)
    block_names = ("text_encoder", "vae_encoder")


class DioramaDenoiseBlocks(SequentialPipelineBlocks):
    model_name = "diorama"
    block_classes = (DioramaPrepareStep, WanSetTimestepsStep, DioramaDenoiseLoop, DioramaKeepFirstFrameStep)
    block_names = ("prepare", "set_timesteps", "denoise", "keep_first_frame")


class DioramaDecodeBlocks(SequentialPipelineBlocks):
    model_name = "diorama"
    block_classes = (DioramaVaeDecoderStep,)
    block_names = ("vae_decoder",)
