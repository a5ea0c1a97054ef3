"""HunyuanVideo 1.5 (Tencent): diffusers' own blocks, split over the stages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo15, FlowMatchEulerDiscreteScheduler, HunyuanVideo15Transformer3DModel
from diffusers.modular_pipelines.hunyuan_video1_5.before_denoise import (
    HunyuanVideo15Image2VideoPrepareLatentsStep,
    HunyuanVideo15PrepareLatentsStep,
    HunyuanVideo15SetTimestepsStep,
    HunyuanVideo15TextInputStep,
)
from diffusers.modular_pipelines.hunyuan_video1_5.denoise import (
    HunyuanVideo15DenoiseStep,
    HunyuanVideo15Image2VideoDenoiseStep,
)
from diffusers.modular_pipelines.hunyuan_video1_5.encoders import (
    HunyuanVideo15ImageEncoderStep,
    HunyuanVideo15TextEncoderStep,
    HunyuanVideo15VaeEncoderStep,
)
from torch import Tensor, nn
from transformers import (  # type: ignore[attr-defined]  # made on demand
    ByT5Tokenizer,
    Qwen2_5_VLTextModel,
    Qwen2TokenizerFast,
    SiglipImageProcessor,
    SiglipVisionModel,
    T5EncoderModel,
)

from libs.families.events import StepBegins, StepEnds
from libs.families.first_frame import PictureStep
from libs.families.loading import Lazy, LazyModel, load_model, load_scheduler, load_tokenizer
from libs.families.modular import (
    AutoPipelineBlocks,
    Components,
    ComponentSpec,
    InputParam,
    ModularPipelineBlocks,
    OutputParam,
    PipelineState,
    SequentialPipelineBlocks,
)
from libs.families.resuming import Resumable
from libs.families.shape import Shape, VaeShapeStep

__all__ = [
    "HunyuanDecodeBlocks",
    "HunyuanDenoiseBlocks",
    "HunyuanEncodeBlocks",
    "load_for_decode",
    "load_for_denoise",
    "load_for_encode",
    "load_transformer",
]

NAME = "hunyuan-video-1.5"


class NoTransformer:
    """What the encoder has instead: text is handed on in float32."""

    dtype = torch.float32


class HunyuanTextStep(HunyuanVideo15TextEncoderStep):  # type: ignore[misc]  # diffusers is untyped
    """Diffusers' block asks the transformer for its type without naming it among what it expects."""

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [*super().expected_components, ComponentSpec("transformer", HunyuanVideo15Transformer3DModel)]


class HunyuanNameEmbedsStep(ModularPipelineBlocks):
    """A name of their own: the block that prepares latents sets ``image_embeds`` to the zeros of text-to-video."""

    model_name = NAME

    @property
    def description(self) -> str:
        return "Hands on what the image encoder saw in the first frame"

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("image_embeds", required=True)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("first_frame_embeds", type_hint=Tensor, description="(1, 729, 1152)")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        block_state.first_frame_embeds = block_state.image_embeds
        self.set_block_state(state, block_state)
        return components, state


class HunyuanSetEmbedsStep(ModularPipelineBlocks):
    model_name = NAME

    @property
    def description(self) -> str:
        return "The inverse of HunyuanNameEmbedsStep"

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("first_frame_embeds", required=True)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("image_embeds", type_hint=Tensor, description="(1, 729, 1152)")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        block_state.image_embeds = block_state.first_frame_embeds
        self.set_block_state(state, block_state)
        return components, state


class HunyuanVideoChunksStep(ModularPipelineBlocks):
    model_name = NAME

    @property
    def description(self) -> str:
        return "VAE-decoder step. The decoder attends to all frames at once, so that the video comes in one piece"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", AutoencoderKLHunyuanVideo15)]

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("latents", required=True)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("video_chunks", type_hint=Iterable[Tensor], description="(1, 3, T, H, W) in [-1, 1]")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        vae = components.vae
        latents = block_state.latents.to(vae.dtype) / vae.config.scaling_factor
        block_state.video_chunks = (vae.decode(latents, return_dict=False)[0],)
        self.set_block_state(state, block_state)
        return components, state


class HunyuanEncodeImageBlocks(SequentialPipelineBlocks):
    model_name = NAME
    block_classes = (
        PictureStep,
        HunyuanVideo15VaeEncoderStep,
        HunyuanVideo15ImageEncoderStep,
        HunyuanNameEmbedsStep,
    )
    block_names = ("picture", "vae_encoder", "image_encoder", "name_embeds")


class HunyuanFirstFrameBlocks(AutoPipelineBlocks):
    model_name = NAME
    block_classes = (HunyuanEncodeImageBlocks,)
    block_names = ("encode_image",)
    block_trigger_inputs = ("image",)


class HunyuanEncodeBlocks(SequentialPipelineBlocks):
    model_name = NAME
    block_classes = (HunyuanTextStep, HunyuanFirstFrameBlocks)
    block_names = ("text_encoder", "first_frame")


class HunyuanTextLoop(Resumable, HunyuanVideo15DenoiseStep):  # type: ignore[misc]  # diffusers is untyped
    block_classes = (StepBegins, *HunyuanVideo15DenoiseStep.block_classes, StepEnds)
    block_names = ("begins", *HunyuanVideo15DenoiseStep.block_names, "ends")


class HunyuanImageLoop(Resumable, HunyuanVideo15Image2VideoDenoiseStep):  # type: ignore[misc]  # diffusers is untyped
    block_classes = (StepBegins, *HunyuanVideo15Image2VideoDenoiseStep.block_classes, StepEnds)
    block_names = ("begins", *HunyuanVideo15Image2VideoDenoiseStep.block_names, "ends")


class HunyuanFromImageBlocks(SequentialPipelineBlocks):
    model_name = NAME
    block_classes = (HunyuanSetEmbedsStep, HunyuanVideo15Image2VideoPrepareLatentsStep, HunyuanImageLoop)
    block_names = ("set_embeds", "prepare_first_frame", "denoise")


class HunyuanFromTextOrImageBlocks(AutoPipelineBlocks):
    model_name = NAME
    block_classes = (HunyuanFromImageBlocks, HunyuanTextLoop)
    block_names = ("from_image", "from_text")
    block_trigger_inputs = ("image_latents", None)


class HunyuanDenoiseBlocks(SequentialPipelineBlocks):
    model_name = NAME
    block_classes = (
        VaeShapeStep,
        HunyuanVideo15TextInputStep,
        HunyuanVideo15SetTimestepsStep,
        HunyuanVideo15PrepareLatentsStep,
        HunyuanFromTextOrImageBlocks,
    )
    block_names = ("vae_shape", "input", "set_timesteps", "prepare_latents", "denoise")


class HunyuanDecodeBlocks(SequentialPipelineBlocks):
    model_name = NAME
    block_classes = (HunyuanVideoChunksStep,)
    block_names = ("vae_decoder",)


def load_for_encode(model_dir: Path) -> dict[str, Any]:
    return {
        "tokenizer": load_tokenizer(Qwen2TokenizerFast, model_dir),
        "tokenizer_2": load_tokenizer(ByT5Tokenizer, model_dir, "tokenizer_2"),
        "text_encoder": Lazy(lambda: load_model(Qwen2_5_VLTextModel, model_dir, "text_encoder")),
        "text_encoder_2": Lazy(lambda: load_model(T5EncoderModel, model_dir, "text_encoder_2")),
        "transformer": NoTransformer(),
        "vae": Lazy(lambda: load_model(AutoencoderKLHunyuanVideo15, model_dir, "vae")),
        "image_encoder": Lazy(lambda: load_model(SiglipVisionModel, model_dir, "image_encoder")),
        "feature_extractor": Lazy(lambda: load_tokenizer(SiglipImageProcessor, model_dir, "feature_extractor")),
    }


def load_for_denoise(model_dir: Path) -> dict[str, Any]:
    return {
        "vae": Shape(AutoencoderKLHunyuanVideo15, model_dir, "vae"),
        "scheduler": load_scheduler(FlowMatchEulerDiscreteScheduler, model_dir),
    }


def load_transformer(model_dir: Path) -> nn.Module:
    return LazyModel(HunyuanVideo15Transformer3DModel, model_dir, "transformer")


def load_for_decode(model_dir: Path) -> dict[str, Any]:
    return {"vae": Lazy(lambda: load_model(AutoencoderKLHunyuanVideo15, model_dir, "vae"))}
