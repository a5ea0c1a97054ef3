"""Wan 2.2 (Alibaba): the two-expert 14B models, of text or of an image, and the 5B model of both.

Diffusers' own blocks, but for what they lack: the 5B model, whose tokens have timesteps of their own (those of a given
first frame are clean), and a decoder that gives the video piece by piece and keeps no state between calls.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from diffusers.modular_pipelines.wan.before_denoise import (
    WanAdditionalInputsStep,
    WanPrepareLatentsStep,
    WanSetTimestepsStep,
    WanTextInputStep,
)
from diffusers.modular_pipelines.wan.denoise import (
    Wan22DenoiseStep,
    Wan22Image2VideoDenoiseStep,
    WanLoopAfterDenoiser,
    WanLoopDenoiser,
)
from diffusers.modular_pipelines.wan.encoders import (
    WanPrepareFirstFrameLatentsStep,
    WanTextEncoderStep,
    encode_vae_image,
)
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5EncoderModel
from typing_extensions import override

from libs.families.events import StepBegins, StepEnds
from libs.families.first_frame import FirstFrameStep
from libs.families.loading import (
    Lazy,
    LazyModel,
    index_value,
    load_model,
    load_scheduler,
    load_tokenizer,
)
from libs.families.modular import (
    AutoPipelineBlocks,
    BlockState,
    Components,
    ComponentSpec,
    InputParam,
    ModularPipelineBlocks,
    Module,
    OutputParam,
    PipelineState,
    SequentialPipelineBlocks,
    WanDenoiseLoopWrapper,
)
from libs.families.resuming import Resumable
from libs.families.shape import Shape, VaeShapeStep

__all__ = [
    "Wan5BDenoiseBlocks",
    "Wan5BEncodeBlocks",
    "WanDecodeBlocks",
    "WanDenoiseBlocks",
    "WanEncodeBlocks",
    "load_for_decode",
    "load_for_denoise",
    "load_for_encode",
    "load_transformer",
    "load_transformer_2",
]

_ENCODING = threading.Lock()
"""The autoencoder keeps what it has seen of a video in itself while it encodes: one at a time."""


class WanShape(Shape):
    @property
    def temperal_downsample(self) -> list[bool]:
        """Diffusers' denoise blocks count how often the VAE halves the sides, and the time, by this list's length and
        sum (the spelling is theirs), and so miss the 5B model's patches of 2x2 pixels; the scale factors do not.
        """
        config = self.config
        space, time = (
            factor.bit_length() - 1 for factor in (config.scale_factor_spatial, config.scale_factor_temporal)
        )
        return [False] * (space - time) + [True] * time


class WanFirstFrameStep(FirstFrameStep):
    model_name = "wan"

    @property
    def description(self) -> str:
        return "VAE-encoder step: the latents of the first frame alone"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", AutoencoderKLWan)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("first_frame_latents", type_hint=Tensor, description="(1, C, 1 or F, h, w) normalised")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        vae, video = components.vae, self.video(block_state)
        with _ENCODING:
            block_state.first_frame_latents = encode_vae_image(
                video, vae, None, video.device, vae.dtype, vae.config.z_dim
            )
        self.set_block_state(state, block_state)
        return components, state

    def video(self, block_state: BlockState) -> Tensor:
        """What is encoded, (1, 3, T, height, width) in [-1, 1]."""
        return self.pixels(block_state)


class WanFirstFrameAndGreyStep(WanFirstFrameStep):
    """The 14B models are conditioned on a whole video: the first frame, and grey after it."""

    @property
    def inputs(self) -> list[InputParam]:
        return [*super().inputs, InputParam("num_frames", required=True, type_hint=int)]

    def video(self, block_state: BlockState) -> Tensor:
        first = self.pixels(block_state)
        grey = first.new_zeros(1, 3, block_state.num_frames - 1, block_state.height, block_state.width)
        return torch.cat([first, grey], dim=2)


class WanTokenTimesteps(ModularPipelineBlocks):
    """First in the 5B model's loop: puts the given first frame into the latents, and its tokens at timestep 0."""

    model_name = "wan"

    @property
    def description(self) -> str:
        return "Step within the loop that prepares latents and a timestep for every token"

    @property
    def inputs(self) -> list[InputParam]:
        names = ("latents", "dtype")
        return [*(InputParam(name, required=True) for name in names), InputParam("first_frame_latents")]

    def __call__(
        self,
        components: Components,
        block_state: BlockState,
        i: int,  # noqa: ARG002  # the loop passes both by name
        t: Tensor,
    ) -> tuple[Components, BlockState]:
        noisy = torch.ones_like(block_state.latents[:, :1])
        if block_state.first_frame_latents is not None:
            noisy[:, :, 0] = 0.0
        _, rows, columns = components.transformer.config.patch_size
        block_state.token_timesteps = (noisy[0, 0, :, ::rows, ::columns] * t).flatten()[None]
        block_state.latent_model_input = _with_first(block_state, block_state.latents).to(block_state.dtype)
        return components, block_state


class WanTokenDenoiser(WanLoopDenoiser):  # type: ignore[misc]  # diffusers is untyped
    """Diffusers' block gives all tokens of a video one timestep."""

    def __call__(
        self, components: Components, block_state: BlockState, i: int, t: Tensor
    ) -> tuple[Components, BlockState]:
        guider = components.guider
        guider.set_state(step=i, num_inference_steps=block_state.num_inference_steps, timestep=t)
        batches = guider.prepare_inputs_from_block_state(block_state, self._guider_input_fields)
        for batch in batches:
            guider.prepare_models(components.transformer)
            batch.noise_pred = components.transformer(
                hidden_states=block_state.latent_model_input,
                timestep=block_state.token_timesteps,
                encoder_hidden_states=batch.encoder_hidden_states.to(block_state.dtype),
                return_dict=False,
            )[0]
        block_state.noise_pred = guider(batches)[0]
        return components, block_state


class WanKeepFirstFrameStep(ModularPipelineBlocks):
    model_name = "wan"

    @property
    def description(self) -> str:
        return "Step after the loop that keeps the given first frame"

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("latents", required=True), InputParam("first_frame_latents")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        block_state.latents = _with_first(block_state, block_state.latents)
        self.set_block_state(state, block_state)
        return components, state


class WanVideoChunksStep(ModularPipelineBlocks):
    model_name = "wan"

    @property
    def description(self) -> str:
        return "VAE-decoder step: one latent frame after the other, as they are asked for"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", AutoencoderKLWan)]

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("latents", required=True)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("video_chunks", type_hint=Iterable[Tensor], description="(1, 3, 1 or 4, H, W) each")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        vae = components.vae
        latents = block_state.latents.to(vae.dtype)
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1).to(latents)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        # Divided by the inverse, as diffusers does it: the last bits depend on it.
        block_state.video_chunks = _decoded(vae, latents / (1.0 / std) + mean)
        self.set_block_state(state, block_state)
        return components, state


class WanFirstFrameBlocks(AutoPipelineBlocks):
    model_name = "wan"
    block_classes = (WanFirstFrameAndGreyStep,)
    block_names = ("vae_encoder",)
    block_trigger_inputs = ("image",)


class WanEncodeBlocks(SequentialPipelineBlocks):
    model_name = "wan"
    block_classes = (WanTextEncoderStep, WanFirstFrameBlocks)
    block_names = ("text_encoder", "first_frame")


class Wan5BFirstFrameBlocks(AutoPipelineBlocks):
    model_name = "wan"
    block_classes = (WanFirstFrameStep,)
    block_names = ("vae_encoder",)
    block_trigger_inputs = ("image",)


class Wan5BEncodeBlocks(SequentialPipelineBlocks):
    model_name = "wan"
    block_classes = (WanTextEncoderStep, Wan5BFirstFrameBlocks)
    block_names = ("text_encoder", "first_frame")


class WanTextLoop(Resumable, Wan22DenoiseStep):  # type: ignore[misc]  # diffusers is untyped
    block_classes = (StepBegins, *Wan22DenoiseStep.block_classes, StepEnds)
    block_names = ("begins", *Wan22DenoiseStep.block_names, "ends")


class WanImageLoop(Resumable, Wan22Image2VideoDenoiseStep):  # type: ignore[misc]  # diffusers is untyped
    block_classes = (StepBegins, *Wan22Image2VideoDenoiseStep.block_classes, StepEnds)
    block_names = ("begins", *Wan22Image2VideoDenoiseStep.block_names, "ends")


class Wan5BStepEnds(StepEnds):
    model_name = "wan"

    @override
    def clean(self, components: Components, block_state: BlockState, i: int) -> Tensor:
        return _with_first(block_state, super().clean(components, block_state, i))


class Wan5BLoop(Resumable, WanDenoiseLoopWrapper):
    block_classes = (StepBegins, WanTokenTimesteps, WanTokenDenoiser, WanLoopAfterDenoiser, Wan5BStepEnds)
    block_names = ("begins", "before_denoiser", "denoiser", "after_denoiser", "ends")


class WanFromTextBlocks(SequentialPipelineBlocks):
    model_name = "wan"
    block_classes = (WanTextInputStep, WanSetTimestepsStep, WanPrepareLatentsStep, WanTextLoop)
    block_names = ("input", "set_timesteps", "prepare_latents", "denoise")


class WanFromImageBlocks(SequentialPipelineBlocks):
    model_name = "wan"
    block_classes = (
        WanTextInputStep,
        WanPrepareFirstFrameLatentsStep,
        WanAdditionalInputsStep(image_latent_inputs=["image_condition_latents"]),
        WanSetTimestepsStep,
        WanPrepareLatentsStep,
        WanImageLoop,
    )
    block_names = ("input", "first_frame", "additional_inputs", "set_timesteps", "prepare_latents", "denoise")


class WanFromTextOrImageBlocks(AutoPipelineBlocks):
    model_name = "wan"
    block_classes = (WanFromImageBlocks, WanFromTextBlocks)
    block_names = ("from_image", "from_text")
    block_trigger_inputs = ("first_frame_latents", None)


class WanDenoiseBlocks(SequentialPipelineBlocks):
    model_name = "wan"
    block_classes = (VaeShapeStep, WanFromTextOrImageBlocks)
    block_names = ("vae_shape", "denoise")


class Wan5BDenoiseBlocks(SequentialPipelineBlocks):
    model_name = "wan"
    block_classes = (
        VaeShapeStep,
        WanTextInputStep,
        WanSetTimestepsStep,
        WanPrepareLatentsStep,
        Wan5BLoop,
        WanKeepFirstFrameStep,
    )
    block_names = ("vae_shape", "input", "set_timesteps", "prepare_latents", "denoise", "keep_first_frame")


class WanDecodeBlocks(SequentialPipelineBlocks):
    model_name = "wan"
    block_classes = (WanVideoChunksStep,)
    block_names = ("vae_decoder",)


def load_for_encode(model_dir: Path) -> dict[str, Any]:
    return {
        "tokenizer": load_tokenizer(AutoTokenizer, model_dir),
        "text_encoder": Lazy(lambda: load_model(UMT5EncoderModel, model_dir, "text_encoder")),
        "vae": Lazy(lambda: load_model(AutoencoderKLWan, model_dir, "vae")),
    }


def load_for_denoise(model_dir: Path) -> dict[str, Any]:
    return {
        "vae": WanShape(AutoencoderKLWan, model_dir, "vae"),
        "scheduler": load_scheduler(UniPCMultistepScheduler, model_dir),
        "boundary_ratio": index_value(model_dir, "boundary_ratio"),
    }


def load_transformer(model_dir: Path) -> nn.Module:
    """The only one, or the expert for much noise."""
    return LazyModel(WanTransformer3DModel, model_dir, "transformer")


def load_transformer_2(model_dir: Path) -> nn.Module:
    """The expert for little noise."""
    return LazyModel(WanTransformer3DModel, model_dir, "transformer_2")


def load_for_decode(model_dir: Path) -> dict[str, Any]:
    return {"vae": Lazy(lambda: load_model(AutoencoderKLWan, model_dir, "vae"))}


def _with_first(block_state: BlockState, latents: Tensor) -> Tensor:
    if block_state.first_frame_latents is None:
        return latents
    return torch.cat([block_state.first_frame_latents.to(latents.dtype), latents[:, :, 1:]], dim=2)


@torch.inference_mode()
def _decoded(vae: Module, latents: Tensor) -> Iterator[Tensor]:
    """As `AutoencoderKLWan.decode`, but with the memory of earlier frames here and not in the shared model."""
    seen: list[Tensor | None] = [None] * vae._cached_conv_counts["decoder"]
    hidden = vae.post_quant_conv(latents)
    for index in range(hidden.shape[2]):
        chunk = vae.decoder(hidden[:, :, index : index + 1], feat_cache=seen, feat_idx=[0], first_chunk=index == 0)
        if vae.config.patch_size is not None:
            chunk = unpatchify(chunk, patch_size=vae.config.patch_size)  # type: ignore[no-untyped-call]
        yield chunk.clamp(-1.0, 1.0)
