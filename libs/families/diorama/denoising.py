"""Diorama's denoise blocks: Modular Diffusers' own loop (Wan's) with guidance in one batched call and step events."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaVideoTransformer3DModel
from diffusers.modular_pipelines.wan.denoise import WanImage2VideoLoopBeforeDenoiser, WanLoopAfterDenoiser
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.diorama.camera import CAMERAS, seen_through, windows
from libs.families.diorama.positions import position_channels
from libs.families.events import StepBegins, StepEnds
from libs.families.modular import (
    BlockState,
    Components,
    ComponentSpec,
    InputParam,
    ModularPipelineBlocks,
    Module,
    OutputParam,
    PipelineState,
    WanDenoiseLoopWrapper,
)
from libs.families.precision import mixed_precision
from libs.families.resuming import Resumable

__all__ = [
    "BatchedGuidanceDenoiser",
    "CameraMoves",
    "DioramaDenoiseLoop",
    "DioramaKeepFirstFrameStep",
    "DioramaPrepareStep",
    "sigmas_of",
    "to_uint8",
]


GUIDED_FROM = 0.4
"""Sigma from which guidance is applied: below, it only exaggerates errors of detail ("Applying Guidance in a Limited
Interval Improves Sample and Distribution Quality in Diffusion Models", Kynkäänniemi et al. 2024)."""


BOUNDARY = 0.85
"""Sigma from which the first expert works, the one for layout; below, the second, for detail (Wan 2.2's
``boundary_ratio``). Latents have a standard deviation of 0.4, so there is more noise than it seems:
docs/decisions/0038."""

MOVED_AT = 0.25
"""Sigma at which the camera moves: above it, the transformers would make the scene stand still again."""


class DioramaPrepareStep(ModularPipelineBlocks):
    """Noise, image conditioning and the rows of the guidance batch.

    Not Wan's block: that one asks the VAE for Wan's own config (`z_dim`, `temperal_downsample`).
    """

    model_name = "diorama"

    @property
    def description(self) -> str:
        return "Prepares the initial latents, the image condition and the batch of text rows (prompt, negative prompt)"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", AutoencoderDiorama)]

    @property
    def inputs(self) -> list[InputParam]:
        return [
            InputParam("prompt_embeds", required=True, type_hint=Tensor),
            InputParam("prompt_attention_mask", required=True, type_hint=Tensor),
            InputParam("negative_prompt_embeds", required=True, type_hint=Tensor),
            InputParam("negative_prompt_attention_mask", required=True, type_hint=Tensor),
            InputParam("first_frame_latents", type_hint=Tensor),
            InputParam("width", required=True, type_hint=int),
            InputParam("height", required=True, type_hint=int),
            InputParam("num_frames", required=True, type_hint=int, description="of the form 1 + 4 k"),
            InputParam("num_inference_steps", required=True, type_hint=int),
            InputParam("guidance_scale", default=1.0, type_hint=float),
            InputParam("generator", required=True, type_hint=torch.Generator),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [
            OutputParam("latents", type_hint=Tensor, description="noise, (1, C, F, h, w) float32"),
            OutputParam("sigmas", type_hint=list[float], description="see `sigmas_of`, not yet shifted"),
            OutputParam("image_condition_latents", type_hint=Tensor, description="(1, 1 + C + 13, F, h, w)"),
            OutputParam("encoder_hidden_states", type_hint=Tensor, description="(1 or 2, L, 384)"),
            OutputParam("encoder_attention_mask", type_hint=Tensor, description="(1 or 2, L)"),
            OutputParam("dtype", type_hint=torch.dtype),
        ]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        shape = _latent_shape(components.vae, block_state.num_frames, block_state.height, block_state.width)
        block_state.dtype = torch.float32
        block_state.latents = torch.randn(shape, generator=block_state.generator, dtype=torch.float32)
        block_state.sigmas = sigmas_of(block_state.num_inference_steps)
        block_state.image_condition_latents = _image_condition(shape, block_state.first_frame_latents)
        block_state.encoder_hidden_states = _rows(block_state, "prompt_embeds")
        block_state.encoder_attention_mask = _rows(block_state, "prompt_attention_mask")
        self.set_block_state(state, block_state)
        return components, state


class BatchedGuidanceDenoiser(ModularPipelineBlocks):
    """Classifier-free guidance with the prompt's row and the negative prompt's in one call.

    The experts work in the precision that they were trained in, unless they are elsewhere (Triton has its own). The
    first one predicts the clean latents x_0, the second the velocity (why: ``training.transformer.Expert``);
    the scheduler works with the velocity v = (x_t - x_0) / sigma.
    """

    model_name = "diorama"

    @property
    def description(self) -> str:
        return "Step within the loop: one batched call of the expert for its sigma, guidance, and the velocity it means"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [
            ComponentSpec("transformer", SanaVideoTransformer3DModel),
            ComponentSpec("transformer_2", SanaVideoTransformer3DModel),
            ComponentSpec("scheduler", FlowMatchEulerDiscreteScheduler),
        ]

    @property
    def inputs(self) -> list[InputParam]:
        return [
            InputParam("encoder_hidden_states", required=True, type_hint=Tensor),
            InputParam("encoder_attention_mask", required=True, type_hint=Tensor),
            InputParam("guidance_scale", default=1.0, type_hint=float),
        ]

    def __call__(
        self,
        components: Components,
        block_state: BlockState,
        i: int,
        t: Tensor,
    ) -> tuple[Components, BlockState]:
        sigma = components.scheduler.sigmas[i]
        rows = block_state.encoder_hidden_states.shape[0] if sigma >= GUIDED_FROM else 1
        layout = sigma >= BOUNDARY
        expert = components.transformer if layout else components.transformer_2
        with mixed_precision():
            predicted = expert(
                hidden_states=block_state.latent_model_input.expand(rows, -1, -1, -1, -1),
                encoder_hidden_states=block_state.encoder_hidden_states[:rows],
                encoder_attention_mask=block_state.encoder_attention_mask[:rows],
                timestep=t.expand(rows),
                return_dict=False,
            )[0].float()
        guided = predicted[:1]
        if rows == 2:
            guided = predicted[1:] + block_state.guidance_scale * (predicted[:1] - predicted[1:])
        block_state.noise_pred = (block_state.latents - guided) / sigma if layout else guided
        return components, block_state


class CameraMoves(ModularPipelineBlocks):
    """Moves the camera once, over the layout and before the detail: at the step that leads below `MOVED_AT`.

    What the transformers make of "the camera pans left" is a scene that stands still: a move is a fraction of a token
    from one latent frame to the next. So each frame of the clean picture that this step predicts is cut to what the
    camera sees of it then, and the noise put back; the steps that are left draw its detail anew (as SDEdit would, Meng
    et al. 2022).
    """

    model_name = "diorama"

    @property
    def description(self) -> str:
        return "Step within the loop: the camera's move, once the layout is there"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", AutoencoderDiorama), ComponentSpec("scheduler", FlowMatchEulerDiscreteScheduler)]

    @property
    def inputs(self) -> list[InputParam]:
        return [
            InputParam("latents", required=True, type_hint=Tensor),
            InputParam("num_frames", required=True, type_hint=int),
            InputParam("first_frame_latents", type_hint=Tensor),
            InputParam("camera", type_hint=Tensor, description="(1,) int64: a number of `CAMERAS`; still by default"),
        ]

    def __call__(
        self,
        components: Components,
        block_state: BlockState,
        i: int,
        t: Tensor,  # noqa: ARG002  what the loop hands to each of its blocks
    ) -> tuple[Components, BlockState]:
        camera = CAMERAS[0 if block_state.camera is None else int(block_state.camera)]
        sigma, following = components.scheduler.sigmas[i : i + 2]
        if camera != "still" and sigma >= MOVED_AT > following:
            noise = block_state.latents + (1 - sigma) * block_state.noise_pred
            seen = windows(camera, block_state.num_frames, whole_first=block_state.first_frame_latents is not None)
            video = components.vae.decode_linear(block_state.latents - sigma * block_state.noise_pred)
            clean = components.vae.encode(seen_through(seen, video))
            block_state.latents, block_state.noise_pred = torch.lerp(clean, noise, sigma), noise - clean
        return components, block_state


class DioramaStepEnds(StepEnds):
    """Draws previews with the linear part of the autoencoder."""

    model_name = "diorama"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", AutoencoderDiorama), ComponentSpec("scheduler", FlowMatchEulerDiscreteScheduler)]

    @property
    def inputs(self) -> list[InputParam]:
        return [*super().inputs, InputParam("latents", required=True, type_hint=Tensor)]

    @override
    def preview(self, components: Components, block_state: BlockState, i: int) -> NDArray[np.uint8]:
        return _preview(components, block_state, components.scheduler.sigmas[i])


class DioramaDenoiseLoop(Resumable, WanDenoiseLoopWrapper):
    model_name = "diorama"
    block_classes = (
        StepBegins,
        WanImage2VideoLoopBeforeDenoiser,
        BatchedGuidanceDenoiser,
        CameraMoves,
        WanLoopAfterDenoiser,
        DioramaStepEnds,
    )
    block_names = ("begins", "before_denoiser", "denoiser", "camera", "after_denoiser", "ends")


class DioramaKeepFirstFrameStep(ModularPipelineBlocks):
    """After the loop: latent frame 0 becomes the first frame's latents exactly, when one was given."""

    model_name = "diorama"

    @property
    def description(self) -> str:
        return "Step after the loop that keeps the given first frame"

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("latents", required=True, type_hint=Tensor), InputParam("first_frame_latents")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        first = block_state.first_frame_latents
        if first is not None:
            block_state.latents = torch.cat([first, block_state.latents[:, :, 1:]], dim=2)
        self.set_block_state(state, block_state)
        return components, state


def sigmas_of(num_inference_steps: int) -> list[float]:
    """Evenly spaced from 1 to 1 / steps, before the scheduler's shift: the last step leads from there to 0.

    The scheduler's own end at 0.001 (0.003 once shifted), so that their last step changes nothing: of a fast video's
    few, one would be lost.
    """
    return [1.0 - step / num_inference_steps for step in range(num_inference_steps)]


def to_uint8(video: Tensor) -> NDArray[np.uint8]:
    """(3, T, H, W) in [-1, 1], clamped -> (T, H, W, 3) uint8."""
    scaled = (video.clamp(-1.0, 1.0) + 1.0).mul(127.5).round().to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(1, 2, 3, 0).numpy())


def _latent_shape(vae: Module, num_frames: int, height: int, width: int) -> tuple[int, int, int, int, int]:
    time_ratio, space_ratio = vae.temporal_compression_ratio, vae.spatial_compression_ratio
    if (num_frames - 1) % time_ratio or height % (2 * space_ratio) or width % (2 * space_ratio):
        raise ValueError(f"{num_frames} frames of {width}x{height}: need 1 + 4 k frames, sides multiples of 32")
    return (
        1,
        vae.config.latent_channels,
        1 + (num_frames - 1) // time_ratio,
        height // space_ratio,
        width // space_ratio,
    )


def _image_condition(shape: tuple[int, int, int, int, int], first: Tensor | None) -> Tensor:
    """(1, 1 + C + 13, F, h, w): a mask and the first frame's latents, both 0 except at latent frame 0 of
    image-to-video, and the positions."""
    batch, channels, *rest = shape
    condition = torch.zeros((batch, 1 + channels, *rest))
    if first is not None:
        condition[:, :1, :1] = 1.0
        condition[:, 1:, :1] = first
    return torch.cat([condition, position_channels(*rest)[None]], dim=1)


def _rows(block_state: BlockState, name: str) -> Tensor:
    """The prompt's row, and with guidance the negative prompt's below it."""
    prompt: Tensor = getattr(block_state, name)
    if block_state.guidance_scale <= 1.0:
        return prompt
    return torch.cat([prompt, getattr(block_state, f"negative_{name}")])


def _preview(components: Components, block_state: BlockState, sigma: Tensor) -> NDArray[np.uint8]:
    """Begin, middle and end of the clean picture that this step predicts, x_0 = x_t - sigma v, side by side."""
    noisy = block_state.latent_model_input[:, : block_state.latents.shape[1]]
    clean = noisy - sigma * block_state.noise_pred
    last = clean.shape[2] - 1
    frames = to_uint8(components.vae.decode_linear(clean[:, :, [0, last // 2, last]])[0])
    # Three latent frames decode to 1 + 4 + 4 frames: the first, one amid the middle group, the last.
    return np.concatenate([frames[0], frames[2], frames[-1]], axis=1)
