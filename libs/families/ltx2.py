"""LTX-2 (Lightricks): picture and sound from one loop. The muxer decodes the one, the audio stage the other.

Guidance is classifier-free guidance alone, one call of two rows a step, with one scale for picture and sound. The
passes that diffusers' pipeline may add (spatio-temporal guidance, isolated modalities) are not run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2VideoTransformer3DModel,
)
from diffusers.modular_pipelines.ltx2.before_denoise import (
    LTX2Image2VideoPrepareLatentsStep,
    LTX2PrepareAudioLatentsStep,
    LTX2PrepareLatentsStep,
    LTX2SetTimestepsStep,
)
from diffusers.modular_pipelines.ltx2.denoise import (
    LTX2DenoiseLoopWrapper,
    LTX2Image2VideoLoopAfterDenoiser,
    LTX2Image2VideoLoopBeforeDenoiser,
    LTX2LoopAfterDenoiser,
    LTX2LoopBeforeDenoiser,
)
from diffusers.modular_pipelines.ltx2.encoders import LTX2TextConnectorStep, LTX2TextEncoderStep, LTX2VaeEncoderStep
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoTokenizer, Gemma3ForConditionalGeneration
from typing_extensions import override

from libs.errors import FailedPrecondition
from libs.families.events import StepBegins, StepEnds
from libs.families.first_frame import PictureStep
from libs.families.loading import Lazy, LazyModel, load_model, load_scheduler, load_tokenizer
from libs.families.ltx import as_video
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
from libs.families.shape import Shape, VaeShapeStep

__all__ = [
    "LTX2DecodeBlocks",
    "LTX2DenoiseBlocks",
    "LTX2EncodeBlocks",
    "LTX2Sound",
    "load_for_decode",
    "load_for_denoise",
    "load_for_encode",
    "load_transformer",
]

TEXT = tuple(f"connector_{name}" for name in ("prompt_embeds", "audio_prompt_embeds", "attention_mask"))
SAMPLE_RATE = 48_000
VOCODERS: Mapping[str, Any] = {kind.__name__: kind for kind in (LTX2Vocoder, LTX2VocoderWithBWE)}


class LTX2InputStep(ModularPipelineBlocks):
    model_name = "ltx2"

    @property
    def description(self) -> str:
        return "One video, in the type of its text"

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("connector_prompt_embeds", required=True)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("batch_size", type_hint=int), OutputParam("dtype", type_hint=torch.dtype)]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        block_state.batch_size, block_state.dtype = 1, block_state.connector_prompt_embeds.dtype
        self.set_block_state(state, block_state)
        return components, state


class LTX2BatchedDenoiser(ModularPipelineBlocks):
    """Both passes of guidance in one call, combined as estimates of the clean latents, as the pipeline does it."""

    model_name = "ltx2"

    @property
    def description(self) -> str:
        return "Step within the loop: one batched call, and guidance for picture and sound"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [
            ComponentSpec("transformer", LTX2VideoTransformer3DModel),
            ComponentSpec("scheduler", FlowMatchEulerDiscreteScheduler),
        ]

    @property
    def inputs(self) -> list[InputParam]:
        sizes = ("width", "height", "num_frames", "frame_rate", "audio_num_frames", "guidance_scale")
        needed = (*TEXT, *(f"negative_{name}" for name in TEXT), *sizes)
        return [InputParam(name, required=True) for name in needed]

    def __call__(
        self,
        components: Components,
        block_state: BlockState,
        i: int,
        t: Tensor,  # noqa: ARG002
    ) -> tuple[Components, BlockState]:
        embeds, audio_embeds, mask = (_rows(block_state, name) for name in TEXT)
        space, time = components.vae_spatial_compression_ratio, components.vae_temporal_compression_ratio
        video, audio = components.transformer(
            hidden_states=block_state.latent_model_input,
            audio_hidden_states=block_state.audio_latent_model_input,
            encoder_hidden_states=embeds,
            audio_encoder_hidden_states=audio_embeds,
            encoder_attention_mask=mask,
            audio_encoder_attention_mask=mask,
            timestep=block_state.video_timestep,
            audio_timestep=block_state.audio_timestep,
            sigma=block_state.audio_timestep,
            num_frames=(block_state.num_frames - 1) // time + 1,
            height=block_state.height // space,
            width=block_state.width // space,
            fps=block_state.frame_rate,
            audio_num_frames=block_state.audio_num_frames,
            use_cross_timestep=True,
            return_dict=False,
        )
        sigma, scale = components.scheduler.sigmas[i], block_state.guidance_scale
        block_state.noise_pred_video = _guided(block_state.latents, video.float(), sigma, scale)
        block_state.noise_pred_audio = _guided(block_state.audio_latents, audio.float(), sigma, scale)
        return components, block_state


class LTX2FinishStep(ModularPipelineBlocks):
    model_name = "ltx2"

    @property
    def description(self) -> str:
        return "After the loop: the picture's latents in the form of a video"

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam(name, required=True) for name in ("latents", "width", "height", "num_frames")]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("latents", type_hint=Tensor, description="(1, C, F, h, w) normalised")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        block_state.latents = as_video(components, block_state, block_state.latents)
        self.set_block_state(state, block_state)
        return components, state


class LTX2VideoChunksStep(ModularPipelineBlocks):
    model_name = "ltx2"

    @property
    def description(self) -> str:
        return "VAE-decoder step: the video in one piece"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", AutoencoderKLLTX2Video)]

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("latents", required=True)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("video_chunks", type_hint=Iterable[Tensor], description="(1, 3, T, H, W) in [-1, 1]")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        vae, latents = components.vae, block_state.latents
        # The pipeline's default: no noise is added, and a decoder that asks for its level is told so.
        timestep = torch.zeros(1, dtype=vae.dtype) if vae.config.timestep_conditioning else None
        mean, std = (values.view(1, -1, 1, 1, 1).to(latents) for values in (vae.latents_mean, vae.latents_std))
        latents = (latents * std / vae.config.scaling_factor + mean).to(vae.dtype)
        block_state.video_chunks = (vae.decode(latents, timestep, return_dict=False)[0],)
        self.set_block_state(state, block_state)
        return components, state


class LTX2EncodeImageBlocks(SequentialPipelineBlocks):
    model_name = "ltx2"
    block_classes = (PictureStep, LTX2VaeEncoderStep)
    block_names = ("picture", "vae_encoder")


class LTX2FirstFrameBlocks(AutoPipelineBlocks):
    model_name = "ltx2"
    block_classes = (LTX2EncodeImageBlocks,)
    block_names = ("encode_image",)
    block_trigger_inputs = ("image",)


class LTX2EncodeBlocks(SequentialPipelineBlocks):
    model_name = "ltx2"
    block_classes = (LTX2TextEncoderStep, LTX2TextConnectorStep, LTX2FirstFrameBlocks)
    block_names = ("text_encoder", "connectors", "first_frame")


class LTX2StepEnds(StepEnds):
    model_name = "ltx2"

    @override
    def clean(self, components: Components, block_state: BlockState, i: int) -> Tensor:
        return as_video(components, block_state, block_state.noise_pred_video)  # clean already, see `_guided`

    @override
    def sound(self, block_state: BlockState) -> dict[str, NDArray[np.float32]]:
        return {"audio_latents": block_state.noise_pred_audio.numpy()}


class LTX2ImageStepEnds(LTX2StepEnds):
    """The given first frame is clean from the beginning, whatever is predicted there."""

    @override
    def clean(self, components: Components, block_state: BlockState, i: int) -> Tensor:
        before = as_video(components, block_state, block_state.latents_before)
        return torch.cat([before[:, :, :1], super().clean(components, block_state, i)[:, :, 1:]], dim=2)


class LTX2TextLoop(Resumable, LTX2DenoiseLoopWrapper):  # type: ignore[misc]  # diffusers is untyped
    block_classes = (StepBegins, LTX2LoopBeforeDenoiser, LTX2BatchedDenoiser, LTX2LoopAfterDenoiser, LTX2StepEnds)
    block_names = ("begins", "before_denoiser", "denoiser", "after_denoiser", "ends")


class LTX2ImageLoop(Resumable, LTX2DenoiseLoopWrapper):  # type: ignore[misc]  # diffusers is untyped
    block_classes = (
        StepBegins,
        LTX2Image2VideoLoopBeforeDenoiser,
        LTX2BatchedDenoiser,
        LTX2Image2VideoLoopAfterDenoiser,
        LTX2ImageStepEnds,
    )
    block_names = ("begins", "before_denoiser", "denoiser", "after_denoiser", "ends")


class LTX2FromTextBlocks(SequentialPipelineBlocks):
    model_name = "ltx2"
    block_classes = (LTX2PrepareAudioLatentsStep, LTX2TextLoop)
    block_names = ("prepare_audio", "denoise")


class LTX2FromImageBlocks(SequentialPipelineBlocks):
    model_name = "ltx2"
    block_classes = (LTX2Image2VideoPrepareLatentsStep, LTX2PrepareAudioLatentsStep, LTX2ImageLoop)
    block_names = ("prepare_first_frame", "prepare_audio", "denoise")


class LTX2FromTextOrImageBlocks(AutoPipelineBlocks):
    model_name = "ltx2"
    block_classes = (LTX2FromImageBlocks, LTX2FromTextBlocks)
    block_names = ("from_image", "from_text")
    block_trigger_inputs = ("image_latents", None)


class LTX2DenoiseBlocks(SequentialPipelineBlocks):
    model_name = "ltx2"
    block_classes = (
        VaeShapeStep,
        LTX2InputStep,
        LTX2SetTimestepsStep,
        LTX2PrepareLatentsStep,
        LTX2FromTextOrImageBlocks,
        LTX2FinishStep,
    )
    block_names = ("vae_shape", "input", "set_timesteps", "prepare_latents", "denoise", "finish")


class LTX2DecodeBlocks(SequentialPipelineBlocks):
    model_name = "ltx2"
    block_classes = (LTX2VideoChunksStep,)
    block_names = ("vae_decoder",)


class LTX2Sound:
    """The audio stage of a joint model: decodes the sound that the denoise stage made with the picture."""

    def __init__(self, model_dir: Path) -> None:
        kind = VOCODERS[json.loads((model_dir / "vocoder" / "config.json").read_text(encoding="utf-8"))["_class_name"]]
        self._vae = load_model(AutoencoderKLLTX2Audio, model_dir, "audio_vae")
        self._vocoder = load_model(kind, model_dir, "vocoder")

    @torch.inference_mode()
    def decode(self, latents: Mapping[str, NDArray[Any]], num_samples: int) -> NDArray[np.float32]:
        """The denoise stage's tensors -> 48 kHz sound (2, ``num_samples``) in [-1, 1].

        Raises FailedPrecondition LATENTS_UNFIT.
        """
        waveform, rate = self.waveform(latents)
        return _fitted(_resampled(waveform, rate), num_samples)

    @torch.inference_mode()
    def waveform(self, latents: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], int]:
        """(2, N) as the vocoder gives it, and its samples a second."""
        vae, bins = self._vae, self._vae.config.mel_bins // self._vae.mel_compression_ratio
        packed = latents.get("audio_latents")
        if packed is None or packed.ndim != 3 or packed.shape[::2] != (1, vae.config.latent_channels * bins):
            raise FailedPrecondition(
                "the latents hold no sound of this model; pass the reference that Denoise returned for the same model",
                reason="LATENTS_UNFIT",
            )
        tokens = torch.from_numpy(packed)
        scaled = tokens * vae.latents_std.to(tokens.dtype) + vae.latents_mean.to(tokens.dtype)
        unpacked = scaled.unflatten(2, (-1, bins)).transpose(1, 2).to(vae.dtype)
        waveform = self._vocoder(vae.decode(unpacked, return_dict=False)[0])[0]
        return waveform.float().numpy(), self._vocoder.config.output_sampling_rate


def load_for_encode(model_dir: Path) -> dict[str, Any]:
    return {
        "tokenizer": load_tokenizer(AutoTokenizer, model_dir),
        "text_encoder": Lazy(lambda: load_model(Gemma3ForConditionalGeneration, model_dir, "text_encoder")),
        "connectors": Lazy(lambda: load_model(LTX2TextConnectors, model_dir, "connectors")),
        "vae": Lazy(lambda: load_model(AutoencoderKLLTX2Video, model_dir, "vae")),
    }


def load_for_denoise(model_dir: Path) -> dict[str, Any]:
    return {
        "vae": Shape(AutoencoderKLLTX2Video, model_dir, "vae"),
        "audio_vae": Shape(AutoencoderKLLTX2Audio, model_dir, "audio_vae"),
        "scheduler": load_scheduler(FlowMatchEulerDiscreteScheduler, model_dir),
    }


def load_transformer(model_dir: Path) -> nn.Module:
    return LazyModel(LTX2VideoTransformer3DModel, model_dir, "transformer")


def load_for_decode(model_dir: Path) -> dict[str, Any]:
    return {"vae": Lazy(lambda: load_model(AutoencoderKLLTX2Video, model_dir, "vae"))}


def _rows(block_state: BlockState, name: str) -> Tensor:
    prompt: Tensor = getattr(block_state, name)
    if block_state.guidance_scale <= 1.0:
        return prompt
    return torch.cat([getattr(block_state, f"negative_{name}"), prompt])


def _guided(noisy: Tensor, velocity: Tensor, sigma: Tensor, scale: float) -> Tensor:
    """The guided estimate of the clean latents, from velocities of one row or two."""
    clean = [noisy - row * sigma for row in velocity.chunk(len(velocity))]
    if len(clean) == 1:
        return clean[0]
    negative, prompt = clean
    return prompt + (scale - 1) * (prompt - negative)


def _resampled(sound: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """To 48 kHz, through its spectrum: exact for what is below both Nyquist frequencies."""
    if rate == SAMPLE_RATE:
        return sound
    count = round(sound.shape[1] * SAMPLE_RATE / rate)
    spectrum = np.fft.rfft(sound.astype(np.float64))[:, : count // 2 + 1]
    resampled: NDArray[np.float32] = (np.fft.irfft(spectrum, count) * (count / sound.shape[1])).astype(np.float32)
    return resampled


def _fitted(sound: NDArray[np.float32], num_samples: int) -> NDArray[np.float32]:
    """Cut, or filled with silence: latents hold whole frames of sound, the picture may end within one."""
    cut = sound[:, :num_samples].clip(-1.0, 1.0)
    return np.pad(cut, ((0, 0), (0, num_samples - cut.shape[1])))
