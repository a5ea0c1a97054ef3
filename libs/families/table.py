"""The families, in one literal table: name -> the Modular Diffusers blocks of each stage and what the stages exchange.

To add a family: its blocks in a package beside `diorama`, and a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from libs.errors import FailedPrecondition
from libs.families import hunyuan, ltx, ltx2, wan
from libs.families.diorama import blocks as diorama_blocks
from libs.families.diorama import components as diorama_components
from libs.families.diorama.conditioning import check_conditioning as check_diorama_conditioning
from libs.families.diorama.conditioning import check_latents as check_diorama_latents
from libs.families.exchange import CheckConditioning, CheckLatents, conditioning_of, latents_of
from libs.families.modular import SequentialPipelineBlocks
from libs.families.sounding import JointSound, SoundPipeline

__all__ = ["FAMILIES", "Family", "StageBlocks", "family_named"]


@dataclass(frozen=True)
class StageBlocks:
    """One stage: its blocks, how to load the components they expect, and the tensors it hands on."""

    blocks: type[SequentialPipelineBlocks]
    load: Callable[[Path], dict[str, Any]]
    """Model folder -> components by name; no weights that the stage does not use."""
    gives: tuple[str, ...]
    """Names of the tensors it hands on. One that is None (no image given) is left out."""


@dataclass(frozen=True)
class Family:
    encode: StageBlocks
    denoise: StageBlocks
    transformers: Mapping[str, Callable[[Path], nn.Module]]
    """The denoise stage's pluggable components by name, apart from the others so that a replacement need not load them.

    ``transformer``, and ``transformer_2`` where another one takes over when little noise is left.
    """
    decode: StageBlocks
    check_conditioning: CheckConditioning
    check_latents: CheckLatents
    frames_made: Callable[[int], int]
    """Number of frames to show -> number the model makes; `Render` cuts the surplus at the end."""
    sound: Callable[[Path], SoundPipeline | JointSound]
    """From the rendered picture, or of a joint model from its own latents."""
    latent_channels: str | None
    """Their number's name in the VAE's config, for previews by `Colours`. None: the family draws its own."""


def next_frames(ratio: int) -> Callable[[int], int]:
    """Of models whose latent frames hold one frame, then ``ratio`` each: any number -> the next 1 + ``ratio`` k."""
    return lambda num_frames: 1 + -(-(num_frames - 1) // ratio) * ratio


TEXT = ("prompt_embeds", "negative_prompt_embeds")
LTX2_TEXT = (*ltx2.TEXT, *(f"negative_{name}" for name in ltx2.TEXT))
HUNYUAN_TEXT = tuple(f"{name}{suffix}" for name in TEXT for suffix in ("", "_mask", "_2", "_mask_2"))
HUNYUAN_IMAGE = ("image_latents", "first_frame_embeds")
LTX_TEXT = (*TEXT, "prompt_attention_mask", "negative_prompt_attention_mask")
LTX_IMAGE = ("image_posterior", "latents_mean", "latents_std")

FAMILIES: dict[str, Family] = {
    "diorama": Family(
        encode=StageBlocks(
            blocks=diorama_blocks.DioramaEncodeBlocks,
            load=diorama_components.load_for_encode,
            gives=(
                "prompt_embeds",
                "prompt_attention_mask",
                "negative_prompt_embeds",
                "negative_prompt_attention_mask",
                "camera",
                "first_frame_latents",
            ),
        ),
        denoise=StageBlocks(
            blocks=diorama_blocks.DioramaDenoiseBlocks,
            load=diorama_components.load_for_denoise,
            gives=("latents",),
        ),
        transformers={
            name: partial(diorama_components.load_transformer, name=name) for name in ("transformer", "transformer_2")
        },
        decode=StageBlocks(
            blocks=diorama_blocks.DioramaDecodeBlocks,
            load=diorama_components.load_for_decode,
            gives=("video_chunks",),
        ),
        check_conditioning=check_diorama_conditioning,
        check_latents=check_diorama_latents,
        frames_made=diorama_components.frames_made,
        sound=diorama_components.load_sound,
        latent_channels=None,
    ),
    "ltx": Family(
        encode=StageBlocks(ltx.LTXEncodeBlocks, ltx.load_for_encode, LTX_TEXT + LTX_IMAGE),
        denoise=StageBlocks(ltx.LTXDenoiseBlocks, ltx.load_for_denoise, ("latents", "decode_noise")),
        transformers={"transformer": ltx.load_transformer},
        decode=StageBlocks(ltx.LTXDecodeBlocks, ltx.load_for_decode, ("video_chunks",)),
        check_conditioning=conditioning_of(*LTX_TEXT, image=LTX_IMAGE),
        check_latents=latents_of(8, "decode_noise"),
        frames_made=next_frames(8),
        sound=diorama_components.load_sound,
        latent_channels="latent_channels",
    ),
    "hunyuan15": Family(
        encode=StageBlocks(hunyuan.HunyuanEncodeBlocks, hunyuan.load_for_encode, HUNYUAN_TEXT + HUNYUAN_IMAGE),
        denoise=StageBlocks(hunyuan.HunyuanDenoiseBlocks, hunyuan.load_for_denoise, ("latents",)),
        transformers={"transformer": hunyuan.load_transformer},
        decode=StageBlocks(hunyuan.HunyuanDecodeBlocks, hunyuan.load_for_decode, ("video_chunks",)),
        check_conditioning=conditioning_of(*HUNYUAN_TEXT, image=HUNYUAN_IMAGE),
        check_latents=latents_of(4),
        frames_made=next_frames(4),
        sound=diorama_components.load_sound,
        latent_channels="latent_channels",
    ),
    "ltx2": Family(
        encode=StageBlocks(ltx2.LTX2EncodeBlocks, ltx2.load_for_encode, (*LTX2_TEXT, "image_latents")),
        denoise=StageBlocks(ltx2.LTX2DenoiseBlocks, ltx2.load_for_denoise, ("latents", "audio_latents")),
        transformers={"transformer": ltx2.load_transformer},
        decode=StageBlocks(ltx2.LTX2DecodeBlocks, ltx2.load_for_decode, ("video_chunks",)),
        check_conditioning=conditioning_of(*LTX2_TEXT, image=("image_latents",)),
        check_latents=latents_of(8, "audio_latents"),
        frames_made=next_frames(8),
        sound=ltx2.LTX2Sound,
        latent_channels="latent_channels",
    ),
    # Wan2.2-T2V-A14B and Wan2.2-I2V-A14B, each with two experts.
    "wan22": Family(
        encode=StageBlocks(wan.WanEncodeBlocks, wan.load_for_encode, (*TEXT, "first_frame_latents")),
        denoise=StageBlocks(wan.WanDenoiseBlocks, wan.load_for_denoise, ("latents",)),
        transformers={"transformer": wan.load_transformer, "transformer_2": wan.load_transformer_2},
        decode=StageBlocks(wan.WanDecodeBlocks, wan.load_for_decode, ("video_chunks",)),
        check_conditioning=conditioning_of(*TEXT, image=("first_frame_latents",)),
        check_latents=latents_of(4),
        frames_made=next_frames(4),
        sound=diorama_components.load_sound,
        latent_channels="z_dim",
    ),
    # Wan2.2-TI2V-5B.
    "wan22-5b": Family(
        encode=StageBlocks(wan.Wan5BEncodeBlocks, wan.load_for_encode, (*TEXT, "first_frame_latents")),
        denoise=StageBlocks(wan.Wan5BDenoiseBlocks, wan.load_for_denoise, ("latents",)),
        transformers={"transformer": wan.load_transformer},
        decode=StageBlocks(wan.WanDecodeBlocks, wan.load_for_decode, ("video_chunks",)),
        check_conditioning=conditioning_of(*TEXT, image=("first_frame_latents",)),
        check_latents=latents_of(4),
        frames_made=next_frames(4),
        sound=diorama_components.load_sound,
        latent_channels="z_dim",
    ),
}


def family_named(name: str) -> Family:
    """Raises FailedPrecondition FAMILY_UNKNOWN, with the families there are."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise FailedPrecondition(
            f"model family {name!r} is not known; set `family` in the model's soundstage.json to one of: "
            f"{', '.join(FAMILIES)}",
            reason="FAMILY_UNKNOWN",
            family=name,
        ) from None
