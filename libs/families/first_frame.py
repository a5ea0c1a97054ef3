"""The first frame that a caller gives, as the families' VAE encoders take it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from libs.families.modular import BlockState, Components, InputParam, ModularPipelineBlocks, PipelineState

__all__ = ["FirstFrameStep", "PictureStep", "fit_image"]


class FirstFrameStep(ModularPipelineBlocks):
    """Base of the blocks that encode it."""

    @property
    def inputs(self) -> list[InputParam]:
        return [
            InputParam("image", required=True, description="(H, W, 3) uint8"),
            InputParam("width", required=True, type_hint=int),
            InputParam("height", required=True, type_hint=int),
        ]

    def pixels(self, block_state: BlockState) -> Tensor:
        """(1, 3, 1, height, width) float32 in [-1, 1], as diffusers' `VideoProcessor` makes them."""
        fitted = fit_image(block_state.image, block_state.width, block_state.height)
        return (torch.from_numpy(fitted).float() / 255.0 * 2.0 - 1.0).permute(2, 0, 1)[None, :, None]


class PictureStep(FirstFrameStep):
    """For blocks of diffusers that take a picture of Pillow's."""

    @property
    def description(self) -> str:
        return "Fits the first frame to the video's size, as a picture"

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        block_state.image = Image.fromarray(fit_image(block_state.image, block_state.width, block_state.height))
        self.set_block_state(state, block_state)
        return components, state


def fit_image(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Crop (H, W, 3) around its centre to the aspect ratio of the video, then scale it: (height, width, 3)."""
    rows, columns = image.shape[:2]
    scale = min(columns / width, rows / height)
    crop_width, crop_height = width * scale, height * scale
    left, top = (columns - crop_width) / 2, (rows - crop_height) / 2
    box = (left, top, left + crop_width, top + crop_height)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS, box=box))
