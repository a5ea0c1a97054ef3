"""HunyuanVideo 1.5's networks.

Diffusers' transformer puts valid text tokens before padding, row by row, which a graph cannot hold. No text token has a
position, so that their order means nothing: in an export they stay in place, and no one looks at padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15Transformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import HunyuanVideo15AttnBlock
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_hunyuan_video15 import (
    HunyuanVideo15AttnProcessor2_0,
    HunyuanVideo15IndividualTokenRefiner,
)
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from libs.errors import FailedPrecondition
from libs.families.loading import load_model
from libs.families.modular import Module
from libs.families.network import FromConfig, Linear, Network, TensorSpec

__all__ = ["HUNYUAN"]

LATENT = ("latent_frames", "latent_height", "latent_width")
TOKENS, BYT5_TOKENS, IMAGE_TOKENS = (1000, 1000, 1000), (256, 256, 256), (729, 729, 729)
"""Prompts are padded; SigLIP sees 27x27 patches."""
KINDS = 3
"""Of text tokens: of the language model, of ByT5, of the first frame."""


class HunyuanDecoder(nn.Module):
    """`AutoencoderKLHunyuanVideo15.decode` of scaled latents."""

    def __init__(self, vae: Module) -> None:
        super().__init__()
        self.vae = vae
        for part in vae.decoder.modules():
            if isinstance(part, HunyuanVideo15AttnBlock):
                part.prepare_causal_attention_mask = _causal_mask  # type: ignore[method-assign, assignment]

    def forward(self, latents: Tensor) -> Tensor:
        video: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        return video


def _forward(transformer: Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    # In the type of the rest, as diffusers' pipeline has it: the transformer embeds it in the type it comes in.
    timestep = inputs["timestep"].flatten().to(inputs["hidden_states"].dtype)
    return (transformer(**{**inputs, "timestep": timestep}, return_dict=False)[0],)


def _inputs(given: Mapping[str, Any], _: Mapping[str, Any]) -> Mapping[str, Any]:
    if given.get("timestep_r") is not None:
        raise FailedPrecondition(
            "a model with mean flow (use_meanflow) cannot run apart from its pipeline", reason="NETWORK_UNKNOWN"
        )
    return given


def _traced_transformer(
    self: Module,
    hidden_states: Tensor,
    timestep: Tensor,
    encoder_hidden_states: Tensor,
    encoder_attention_mask: Tensor,
    encoder_hidden_states_2: Tensor,
    encoder_attention_mask_2: Tensor,
    image_embeds: Tensor,
    return_dict: bool,  # noqa: ARG001  # diffusers' signature
) -> tuple[Tensor]:
    rows, _, frames, height, width = hidden_states.shape
    across, deep = self.config.patch_size, self.config.patch_size_t
    rotary, temb = self.rope(hidden_states), self.time_embed(timestep)
    states = self.x_embedder(hidden_states)
    kinds = self.cond_type_embed(torch.arange(KINDS))
    text = self.context_embedder(encoder_hidden_states, timestep, encoder_attention_mask) + kinds[0]
    byt5 = self.context_embedder_2(encoder_hidden_states_2) + kinds[1]
    image = self.image_embedder(image_embeds) + kinds[2]
    # All zeros stand for no picture: then nobody looks at its tokens.
    seen = (image_embeds.abs().amax(dim=(1, 2)) > 0)[:, None].expand(-1, image_embeds.shape[1])
    text = torch.cat([image, byt5, text], dim=1)
    mask = torch.cat([seen, encoder_attention_mask_2.bool(), encoder_attention_mask.bool()], dim=1)
    for block in self.transformer_blocks:
        states, text = block(states, text, temb, mask, rotary)
    states = self.proj_out(self.norm_out(states, temb))
    grid = (frames // deep, height // across, width // across)
    states = states.reshape(rows, *grid, -1, deep, across, across).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return (states.flatten(6, 7).flatten(4, 5).flatten(2, 3),)


def _rotated(states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    turned: Tensor = apply_rotary_emb(states, rotary, sequence_dim=1)  # type: ignore[arg-type, assignment]
    return turned


def _traced_attention(
    self: Module,  # noqa: ARG001  # diffusers' signature
    attn: Module,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    attention_mask: Tensor,
    image_rotary_emb: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    def heads(states: Tensor) -> Tensor:
        split: Tensor = states.unflatten(2, (attn.heads, -1))  # type: ignore[no-untyped-call]
        return split

    latent = [heads(project(hidden_states)) for project in (attn.to_q, attn.to_k, attn.to_v)]
    text = [heads(project(encoder_hidden_states)) for project in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)]
    latent[:2] = [
        _rotated(norm(states), image_rotary_emb)
        for norm, states in zip((attn.norm_q, attn.norm_k), latent[:2], strict=True)
    ]
    text[:2] = [norm(states) for norm, states in zip((attn.norm_added_q, attn.norm_added_k), text[:2], strict=True)]
    query, key, value = (torch.cat(pair, dim=1).transpose(1, 2) for pair in zip(latent, text, strict=True))
    mask = torch.cat([torch.ones_like(hidden_states[:, :, 0], dtype=torch.bool), attention_mask], dim=1)
    attended = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
    attended = attended.transpose(1, 2).flatten(2, 3)
    count = hidden_states.shape[1]
    return attn.to_out[0](attended[:, :count]), attn.to_add_out(attended[:, count:])


def _traced_refiner(self: Module, hidden_states: Tensor, temb: Tensor, attention_mask: Tensor) -> Tensor:
    for block in self.refiner_blocks:
        hidden_states = block(hidden_states, temb, attention_mask.bool()[:, None, None])
    return hidden_states


def _causal_mask(
    n_frame: int,
    n_hw: int,
    dtype: torch.dtype,
    device: torch.device,
    batch_size: int,  # noqa: ARG001  # diffusers' signature
) -> Tensor:
    """Diffusers' own is made in a loop over all tokens, which a trace unrolls, and fits a single video only."""
    frames = torch.arange(n_frame, device=device)[:, None].expand(-1, n_hw).flatten()
    hidden = frames[None, :] > frames[:, None]
    return torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, float("-inf"))[None, None]


@contextmanager
def _tracing() -> Iterator[None]:
    with ExitStack() as stack:
        for kind, name, traced in (
            (HunyuanVideo15Transformer3DModel, "forward", _traced_transformer),
            (HunyuanVideo15AttnProcessor2_0, "__call__", _traced_attention),
            (HunyuanVideo15IndividualTokenRefiner, "forward", _traced_refiner),
        ):
            stack.enter_context(patch.object(kind, name, traced))
        yield


def _load_decoder(model_dir: Path) -> nn.Module:
    return HunyuanDecoder(load_model(AutoencoderKLHunyuanVideo15, model_dir, "vae"))


def _sizes(width: int, height: int, num_frames: int) -> dict[str, int]:
    frames = 1 + -(-(num_frames - 1) // 4)
    return {"latent_frames": frames, "latent_height": height // 16, "latent_width": width // 16}


HUNYUAN = {
    "transformer": Network(
        subfolder="transformer",
        load=partial(load_model, HunyuanVideo15Transformer3DModel, subfolder="transformer"),
        lora=dict,
        forward=_forward,
        inputs=(
            TensorSpec("hidden_states", "float32", (FromConfig("in_channels"), *LATENT)),
            TensorSpec("timestep", "float32", (1,), keep=True),
            TensorSpec("encoder_hidden_states", "float32", ("tokens", FromConfig("text_embed_dim"))),
            TensorSpec("encoder_attention_mask", "int64", ("tokens",)),
            TensorSpec("encoder_hidden_states_2", "float32", ("byt5_tokens", FromConfig("text_embed_2_dim"))),
            TensorSpec("encoder_attention_mask_2", "int64", ("byt5_tokens",)),
            TensorSpec("image_embeds", "float32", ("image_tokens", FromConfig("image_embed_dim"))),
        ),
        outputs=(TensorSpec("sample", "float32", (FromConfig("out_channels"), *LATENT)),),
        sizes=_sizes,
        texts=MappingProxyType({"tokens": TOKENS, "byt5_tokens": BYT5_TOKENS, "image_tokens": IMAGE_TOKENS}),
        adapt=_inputs,
        tracing=_tracing,
    ),
    "vae_decoder": Network(
        subfolder="vae",
        load=_load_decoder,
        forward=lambda decoder, inputs: (decoder(inputs["latents"]),),
        inputs=(TensorSpec("latents", "float32", (FromConfig("latent_channels"), *LATENT)),),
        outputs=(
            TensorSpec(
                "video",
                "float32",
                (3, Linear("latent_frames", 4, -3), Linear("latent_height", 16), Linear("latent_width", 16)),
            ),
        ),
        sizes=_sizes,
        margin=lambda _: None,  # attention of the middle block goes over all frames
    ),
}
