"""The families, in one literal table: name -> the Modular Diffusers blocks of each stage and what the stages exchange.

To add a family: its blocks in a package beside `diorama`, and a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from libs.errors import FailedPrecondition
from libs.families.diorama import blocks as diorama_blocks
from libs.families.diorama import components as diorama_components
from libs.families.diorama.conditioning import check_conditioning as check_diorama_conditioning
from libs.families.diorama.conditioning import check_latents as check_diorama_latents
from libs.families.modular import SequentialPipelineBlocks
from libs.families.sounding import SoundPipeline

__all__ = ["FAMILIES", "Family", "StageBlocks", "family_named"]

Tensors = Mapping[str, NDArray[Any]]


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
    load_transformer: Callable[[Path], nn.Module]
    """The denoise stage's pluggable component, apart from the others so that a replacement need not load it."""
    decode: StageBlocks
    check_conditioning: Callable[[Tensors, Mapping[str, Any], int, int], None]
    """(conditioning, denoise components, width, height); raises FailedPrecondition when they do not fit."""
    check_latents: Callable[[Tensors, Mapping[str, Any], int], None]
    """(latents, decode components, frames to show); raises FailedPrecondition when they do not fit."""
    frames_made: Callable[[int], int]
    """Number of frames to show -> number the model makes; `Render` cuts the surplus at the end."""
    sound: Callable[[Path], SoundPipeline]


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
                "first_frame_latents",
            ),
        ),
        denoise=StageBlocks(
            blocks=diorama_blocks.DioramaDenoiseBlocks,
            load=diorama_components.load_for_denoise,
            gives=("latents",),
        ),
        load_transformer=diorama_components.load_transformer,
        decode=StageBlocks(
            blocks=diorama_blocks.DioramaDecodeBlocks,
            load=diorama_components.load_for_decode,
            gives=("video_chunks",),
        ),
        check_conditioning=check_diorama_conditioning,
        check_latents=check_diorama_latents,
        frames_made=diorama_components.frames_made,
        sound=diorama_components.load_sound,
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
