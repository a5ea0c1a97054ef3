"""LTX-Video (Lightricks): diffusers' own blocks, with sampling of the first frame's posterior moved to the denoiser.

The pipeline draws the first frame's latents, the initial noise and the decoder's noise from one generator, in this
order. The seed belongs to the denoise stage, so it draws all three: `Encode` hands on the posterior, and the decoder's
noise travels with the latents.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.modular_pipelines.ltx.before_denoise import (
    LTXImage2VideoPrepareLatentsStep,
    LTXPrepareLatentsStep,
    LTXSetTimestepsStep,
    LTXTextInputStep,
)
from diffusers.modular_pipelines.ltx.decoders import LTXUnpackLatentsStep
from diffusers.modular_pipelines.ltx.denoise import LTXDenoiseStep, LTXImage2VideoDenoiseStep
from diffusers.modular_pipelines.ltx.encoders import LTXTextEncoderStep
from torch import Tensor
from transformers import T5EncoderModel, T5TokenizerFast  # type: ignore[attr-defined]  # made on demand
from typing_extensions import override

from libs.families.events import StepBegins, StepEnds
from libs.families.first_frame import FirstFrameStep
from libs.families.loading import Lazy, LazyModel, load_model, load_scheduler, load_tokenizer
from libs.families.modular import (
    AutoPipelineBlocks,
    BlockState,
    Components,
    ComponentSpec,
    InputParam,
    ModularPipelineBlocks,
    OutputParam,
    PipelineState,
    SequentialPipelineBlocks,
)
from libs.families.resuming import Resumable
from libs.families.shape import Shape

__all__ = [
    "LTXDecodeBlocks",
    "LTXDenoiseBlocks",
    "LTXEncodeBlocks",
    "as_video",
    "load_for_decode",
    "load_for_denoise",
    "load_for_encode",
    "load_transformer",
]

DECODE_TIMESTEP, DECODE_NOISE_SCALE = 0.05, 0.025
"""What the model's authors use with a decoder that removes the last of the noise (LTX-Video 0.9.1 and later)."""


class LTXPosteriorStep(FirstFrameStep):
    model_name = "ltx"

    @property
    def description(self) -> str:
        return "VAE-encoder step: the posterior of the first frame's latents, and the scale they are normalised with"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", AutoencoderKLLTXVideo)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [
            OutputParam("image_posterior", type_hint=Tensor, description="(1, 2 C, 1, h, w): mean and log variance"),
            OutputParam("latents_mean", type_hint=Tensor, description="(C,)"),
            OutputParam("latents_std", type_hint=Tensor, description="(C,)"),
        ]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        vae, pixels = components.vae, self.pixels(block_state)
        block_state.image_posterior = vae.encode(pixels.to(vae.dtype)).latent_dist.parameters
        block_state.latents_mean, block_state.latents_std = vae.latents_mean, vae.latents_std
        self.set_block_state(state, block_state)
        return components, state


class LTXSampleFirstFrameStep(ModularPipelineBlocks):
    model_name = "ltx"

    @property
    def description(self) -> str:
        return "Draws the first frame's latents from their posterior"

    @property
    def inputs(self) -> list[InputParam]:
        names = ("image_posterior", "latents_mean", "latents_std", "generator")
        return [InputParam(name, required=True) for name in names]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("image_latents", type_hint=Tensor, description="(1, C, 1, h, w) normalised")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        drawn = DiagonalGaussianDistribution(block_state.image_posterior).sample(block_state.generator).float()
        mean, std = (_by_channel(values, drawn) for values in (block_state.latents_mean, block_state.latents_std))
        block_state.image_latents = (drawn - mean) / std
        self.set_block_state(state, block_state)
        return components, state


class LTXDecodeNoiseStep(ModularPipelineBlocks):
    model_name = "ltx"

    @property
    def description(self) -> str:
        return "After the loop: the noise that a timestep-conditioned decoder starts from, None for other decoders"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", AutoencoderKLLTXVideo)]

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("latents", required=True), InputParam("generator", required=True)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("decode_noise", type_hint=Tensor, description="(1, C, F, h, w), or None")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        block_state.decode_noise = None
        if components.vae.config.timestep_conditioning:
            block_state.decode_noise = torch.randn(block_state.latents.shape, generator=block_state.generator)
        self.set_block_state(state, block_state)
        return components, state


class LTXVideoChunksStep(ModularPipelineBlocks):
    model_name = "ltx"

    @property
    def description(self) -> str:
        return "VAE-decoder step. The decoder looks ahead in time, so that the video comes in one piece"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", AutoencoderKLLTXVideo)]

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("latents", required=True), InputParam("decode_noise")]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("video_chunks", type_hint=Iterable[Tensor], description="(1, 3, T, H, W) in [-1, 1]")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        vae, latents, timestep = components.vae, block_state.latents, None
        mean, std = _by_channel(vae.latents_mean, latents), _by_channel(vae.latents_std, latents)
        latents = (latents * std / vae.config.scaling_factor + mean).to(vae.dtype)
        if vae.config.timestep_conditioning:
            scale = torch.tensor(DECODE_NOISE_SCALE, dtype=vae.dtype)
            noise = torch.zeros_like(latents) if block_state.decode_noise is None else block_state.decode_noise
            latents = (1 - scale) * latents + scale * noise.to(vae.dtype)
            timestep = torch.tensor([DECODE_TIMESTEP], dtype=vae.dtype)
        block_state.video_chunks = (vae.decode(latents, timestep, return_dict=False)[0],)
        self.set_block_state(state, block_state)
        return components, state


class LTXFirstFrameBlocks(AutoPipelineBlocks):
    model_name = "ltx"
    block_classes = (LTXPosteriorStep,)
    block_names = ("vae_encoder",)
    block_trigger_inputs = ("image",)


class LTXEncodeBlocks(SequentialPipelineBlocks):
    model_name = "ltx"
    block_classes = (LTXTextEncoderStep, LTXFirstFrameBlocks)
    block_names = ("text_encoder", "first_frame")


class LTXStepEnds(StepEnds):
    model_name = "ltx"

    @override
    def clean(self, components: Components, block_state: BlockState, i: int) -> Tensor:
        return as_video(components, block_state, super().clean(components, block_state, i))


class LTXImageStepEnds(LTXStepEnds):
    """The given first frame is clean from the beginning, whatever velocity is predicted there."""

    @override
    def clean(self, components: Components, block_state: BlockState, i: int) -> Tensor:
        before = as_video(components, block_state, block_state.latents_before)
        return torch.cat([before[:, :, :1], super().clean(components, block_state, i)[:, :, 1:]], dim=2)


class LTXTextLoop(Resumable, LTXDenoiseStep):  # type: ignore[misc]  # diffusers is untyped
    block_classes = (StepBegins, *LTXDenoiseStep.block_classes, LTXStepEnds)
    block_names = ("begins", *LTXDenoiseStep.block_names, "ends")


class LTXImageLoop(Resumable, LTXImage2VideoDenoiseStep):  # type: ignore[misc]  # diffusers is untyped
    block_classes = (StepBegins, *LTXImage2VideoDenoiseStep.block_classes, LTXImageStepEnds)
    block_names = ("begins", *LTXImage2VideoDenoiseStep.block_names, "ends")


class LTXFromTextBlocks(SequentialPipelineBlocks):
    model_name = "ltx"
    block_classes = (LTXTextInputStep, LTXSetTimestepsStep, LTXPrepareLatentsStep, LTXTextLoop, LTXUnpackLatentsStep)
    block_names = ("input", "set_timesteps", "prepare_latents", "denoise", "unpack_latents")


class LTXFromImageBlocks(SequentialPipelineBlocks):
    model_name = "ltx"
    block_classes = (
        LTXTextInputStep,
        LTXSampleFirstFrameStep,
        LTXSetTimestepsStep,
        LTXPrepareLatentsStep,
        LTXImage2VideoPrepareLatentsStep,
        LTXImageLoop,
        LTXUnpackLatentsStep,
    )
    block_names = (
        "input",
        "first_frame",
        "set_timesteps",
        "prepare_latents",
        "prepare_first_frame",
        "denoise",
        "unpack_latents",
    )


class LTXFromTextOrImageBlocks(AutoPipelineBlocks):
    model_name = "ltx"
    block_classes = (LTXFromImageBlocks, LTXFromTextBlocks)
    block_names = ("from_image", "from_text")
    block_trigger_inputs = ("image_posterior", None)


class LTXDenoiseBlocks(SequentialPipelineBlocks):
    model_name = "ltx"
    block_classes = (LTXFromTextOrImageBlocks, LTXDecodeNoiseStep)
    block_names = ("denoise", "decode_noise")


class LTXDecodeBlocks(SequentialPipelineBlocks):
    model_name = "ltx"
    block_classes = (LTXVideoChunksStep,)
    block_names = ("vae_decoder",)


def load_for_encode(model_dir: Path) -> dict[str, Any]:
    return {
        "tokenizer": load_tokenizer(T5TokenizerFast, model_dir),
        "text_encoder": Lazy(lambda: load_model(T5EncoderModel, model_dir, "text_encoder")),
        "vae": Lazy(lambda: load_model(AutoencoderKLLTXVideo, model_dir, "vae")),
    }


def load_for_denoise(model_dir: Path) -> dict[str, Any]:
    return {
        "vae": Shape(AutoencoderKLLTXVideo, model_dir, "vae"),
        "scheduler": load_scheduler(FlowMatchEulerDiscreteScheduler, model_dir),
    }


def load_transformer(model_dir: Path) -> LazyModel:
    return LazyModel(LTXVideoTransformer3DModel, model_dir, "transformer")


def load_for_decode(model_dir: Path) -> dict[str, Any]:
    return {"vae": Lazy(lambda: load_model(AutoencoderKLLTXVideo, model_dir, "vae"))}


def as_video(components: Components, block_state: BlockState, tokens: Tensor) -> Tensor:
    """(1, F h w, C) -> (1, C, F, h, w). Patches are single latents: tokens are frames, rows, columns in this order."""
    space, time = components.vae_spatial_compression_ratio, components.vae_temporal_compression_ratio
    grid = (block_state.num_frames - 1) // time + 1, block_state.height // space, block_state.width // space
    return tokens.transpose(1, 2).reshape(1, -1, *grid)


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1).to(like.dtype)
