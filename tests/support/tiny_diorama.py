"""Writes a Diorama model folder of the real classes and layout with tiny random weights, for quick tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaVideoTransformer3DModel

from libs.families.diorama.autoencoder import PATCH_VALUES, AutoencoderDiorama
from libs.families.diorama.camera import CameraReader
from libs.families.diorama.positions import POSITION_CHANNELS

__all__ = ["LATENT_CHANNELS", "TEXT_CHANNELS", "write_tiny_diorama"]

LATENT_CHANNELS = 8
TEXT_CHANNELS = 384


def write_tiny_diorama(models_dir: Path, name: str = "diorama", *, seed: int = 0) -> Path:
    """Write ``models_dir/name`` (sizes 32x32, 64x64 and 64x32, 12 fps, 0.25 to 8 s, 100 steps) and return its path."""
    folder = models_dir / name
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _vae().save_pretrained(folder / "vae")
        _transformer(patch=2).save_pretrained(folder / "transformer")
        _transformer(patch=1).save_pretrained(folder / "transformer_2")
        _camera().save_pretrained(folder / "camera")
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(_index(), indent=2))
    (folder / "soundstage.json").write_text(json.dumps(_card(name), indent=2))
    return folder


def _vae() -> AutoencoderDiorama:
    vae = AutoencoderDiorama(latent_channels=LATENT_CHANNELS, latent_width=8, detail_width=8, depth=1)
    basis, _ = torch.linalg.qr(torch.randn(PATCH_VALUES, LATENT_CHANNELS))
    vae.basis.copy_(basis.T)
    vae.scale.fill_(8.0)
    return vae


def _camera() -> CameraReader:
    """Reads of no move in any prompt."""
    reader = CameraReader(TEXT_CHANNELS)
    torch.nn.init.zeros_(reader.tell.weight)
    reader.tell.bias.data = torch.tensor([1.0, 0.0, 0.0, 0.0])
    return reader


def _transformer(patch: int) -> Any:
    """Two layers of 2 heads; every weight is moved off its initial value so that text, time and mask all matter."""
    model: Any = SanaVideoTransformer3DModel(
        in_channels=2 * LATENT_CHANNELS + 1 + POSITION_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=TEXT_CHANNELS,
        mlp_ratio=2.0,
        patch_size=(1, patch, patch),
        rope_max_seq_len=64,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def _index() -> dict[str, object]:
    return {
        "_class_name": "DioramaPipeline",
        "_diffusers_version": "0.42.1",
        "camera": ["libs.families.diorama.camera", "CameraReader"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["diffusers", "SanaVideoTransformer3DModel"],
        "transformer_2": ["diffusers", "SanaVideoTransformer3DModel"],
        "vae": ["libs.families.diorama.autoencoder", "AutoencoderDiorama"],
    }


def _card(name: str) -> dict[str, object]:
    return {
        "name": name,
        "family": "diorama",
        "description": "Random weights: noise in, noise out.",
        "image_to_video": True,
        "joint_audio": False,
        "defaults": {
            "duration_seconds": 1.0,
            "width": 32,
            "height": 32,
            "fps": 12,
            "num_inference_steps": 4,
            "fast_num_inference_steps": 2,
            "guidance_scale": 3.0,
        },
        "limits": {
            "min_duration_seconds": 0.25,
            "max_duration_seconds": 8.0,
            "sizes": [[32, 32], [64, 64], [64, 32]],
            "fps": [12],
            "max_num_inference_steps": 100,
        },
    }
