"""Diorama's encoder blocks: prompts to token embeddings, a first frame to its latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertModel, BertTokenizer

from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.diorama.camera import CameraReader
from libs.families.first_frame import fit_image
from libs.families.modular import (
    Components,
    ComponentSpec,
    InputParam,
    ModularPipelineBlocks,
    Module,
    OutputParam,
    PipelineState,
)

__all__ = ["MOST_TOKENS", "DioramaTextEncoderStep", "DioramaVaeEncoderStep", "embed_text"]

MOST_TOKENS = 128
"""Rows of an embedding: the mean, then at most 127 tokens. Text beyond that is cut off."""


class DioramaTextEncoderStep(ModularPipelineBlocks):
    """Embeds the prompt and the negative prompt, each on its own, then pads both with zeros to one length; and reads
    from the prompt how the camera moves.

    Each on its own, so that the embedding of a prompt does not depend, not even in its last bits, on the length of the
    other.
    """

    model_name = "diorama"

    @property
    def description(self) -> str:
        return (
            "Text-encoder step: token embeddings with their mean in front, and attention masks (1 = token, 0 = padding)"
        )

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [
            ComponentSpec("text_encoder", BertModel),
            ComponentSpec("tokenizer", BertTokenizer),
            ComponentSpec("camera", CameraReader),
        ]

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("prompt", required=True, type_hint=str), InputParam("negative_prompt", default="")]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [
            OutputParam("prompt_embeds", type_hint=Tensor, description="(1, L, 384) float32"),
            OutputParam("prompt_attention_mask", type_hint=Tensor, description="(1, L) int64"),
            OutputParam("negative_prompt_embeds", type_hint=Tensor, description="(1, L, 384) float32"),
            OutputParam("negative_prompt_attention_mask", type_hint=Tensor, description="(1, L) int64"),
            OutputParam("camera", type_hint=Tensor, description="(1,) int64: a number of `CAMERAS`"),
        ]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        texts = block_state.prompt, block_state.negative_prompt
        rows = [embed_text(components.tokenizer, components.text_encoder, text) for text in texts]
        length = max(len(row) for row in rows)
        block_state.prompt_embeds, block_state.prompt_attention_mask = _padded(rows[0], length)
        block_state.negative_prompt_embeds, block_state.negative_prompt_attention_mask = _padded(rows[1], length)
        prompt = rows[0][None]
        block_state.camera = components.camera(prompt, torch.ones(prompt.shape[:2])).argmax(dim=1)
        self.set_block_state(state, block_state)
        return components, state


class DioramaVaeEncoderStep(ModularPipelineBlocks):
    """Fits the first frame to the video's size and encodes it; without an image its output is None."""

    model_name = "diorama"

    @property
    def description(self) -> str:
        return "VAE-encoder step: the latents of the first frame"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("vae", AutoencoderDiorama)]

    @property
    def inputs(self) -> list[InputParam]:
        return [
            InputParam("image", description="(H, W, 3) uint8, or None"),
            InputParam("width", required=True, type_hint=int),
            InputParam("height", required=True, type_hint=int),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("first_frame_latents", type_hint=Tensor, description="(1, C, 1, h, w) float32, or None")]

    def __call__(self, components: Components, state: PipelineState) -> tuple[Components, PipelineState]:
        block_state = self.get_block_state(state)
        block_state.first_frame_latents = None
        if block_state.image is not None:
            fitted = fit_image(block_state.image, block_state.width, block_state.height)
            pixels = torch.from_numpy(fitted).float() / 127.5 - 1.0
            block_state.first_frame_latents = components.vae.encode(pixels.permute(2, 0, 1)[None, :, None])
        self.set_block_state(state, block_state)
        return components, state


def embed_text(tokenizer: Module, text_encoder: Module, text: str) -> Tensor:
    """The text's embedding (L, 384): the mean over its tokens, then each token's last hidden state; L <= `MOST_TOKENS`.

    The empty text has a [CLS] and a [SEP] and so an embedding too: the unconditional one.
    """
    tokens = tokenizer(text, truncation=True, max_length=MOST_TOKENS - 1, return_tensors="pt")
    hidden: Tensor = text_encoder(**tokens).last_hidden_state[0]
    return torch.cat([hidden.mean(dim=0, keepdim=True), hidden])


def _padded(rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
    missing = length - len(rows)
    mask = F.pad(torch.ones(len(rows), dtype=torch.int64), (0, missing))
    return F.pad(rows, (0, 0, 0, missing))[None], mask[None]
