"""Model families: what runs a model's stages. Numpy in, numpy out; synchronous, called from a stage's worker thread.

Importing this package imports neither torch nor diffusers, so that a process which only needs a part of it that is
plain numpy (a vocoder) stays small; loading a pipeline imports them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from libs.families.cache import Card, PipelineCache
from libs.families.sounding import Intent, JointSound, SoundPipeline
from libs.families.step import LoopState, Step, steps_done

if TYPE_CHECKING:
    from torch import nn

    from libs.families.pipelines import DecodePipeline, DenoisePipeline, EncodePipeline
    from libs.families.remote import Infer, RemoteDecoder, RemoteTransformer
    from libs.families.sentences import SentenceEmbedder

__all__ = [
    "Card",
    "Intent",
    "JointSound",
    "LoopState",
    "PipelineCache",
    "SoundPipeline",
    "Step",
    "load_decode",
    "load_denoise",
    "load_encode",
    "load_remote_decoder",
    "load_remote_transformers",
    "load_sentences",
    "load_sound",
    "steps_done",
    "use_threads",
]


def load_encode(model_dir: Path, family: str) -> EncodePipeline:
    """The text-encoder and VAE-encoder blocks of ``family``, with the weights they need from ``model_dir``."""
    from libs.families.pipelines import EncodePipeline

    return EncodePipeline(model_dir, family)


def load_denoise(
    model_dir: Path,
    family: str,
    transformers: Mapping[str, nn.Module] = MappingProxyType({}),
    cache_threshold: float = 0.0,
) -> DenoisePipeline:
    """The denoise-loop blocks. ``transformers`` by name replace the model folder's own, which are then not loaded.

    ``cache_threshold``: relative change of a transformer's output below which a call may be left out; 0: none is.
    """
    from libs.families.pipelines import DenoisePipeline

    return DenoisePipeline(model_dir, family, transformers, cache_threshold)


def load_remote_transformers(model_dir: Path, family: str, infer: Infer) -> dict[str, RemoteTransformer]:
    """For `load_denoise`: transformers whose calls go through ``infer``. Nothing of their weights is read here."""
    from libs.families.remote import RemoteTransformer
    from libs.families.table import family_named

    return {name: RemoteTransformer(model_dir, family, name, infer) for name in family_named(family).transformers}


def load_decode(model_dir: Path, family: str, decoder: nn.Module | None = None) -> DecodePipeline:
    """The decode block: latents to frames. ``decoder`` replaces the model folder's VAE, which is then not loaded."""
    from libs.families.pipelines import DecodePipeline

    return DecodePipeline(model_dir, family, decoder)


def load_remote_decoder(model_dir: Path, family: str, infer: Infer) -> RemoteDecoder:
    """For `load_decode`: a decoder whose calls go through ``infer``. Nothing of its weights is read here."""
    from libs.families.remote import RemoteDecoder

    return RemoteDecoder(model_dir, family, infer)


def load_sound(model_dir: Path, family: str) -> SoundPipeline | JointSound:
    """The video-to-audio model: frames and a prompt to stereo sound; of a joint model the decoder of its sound."""
    from libs.families.table import family_named

    return family_named(family).sound(model_dir)


def load_sentences() -> SentenceEmbedder:
    """Short texts to directions, whatever the models' own text encoders are."""
    from libs.families.sentences import SentenceEmbedder

    return SentenceEmbedder()


def use_threads(count: int) -> None:
    """Give torch ``count`` CPU threads in this process; 0 gives it every core the process may run on."""
    import os

    import torch

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(count or allowed)
