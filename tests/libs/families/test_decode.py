"""The decode block: latents to frames, in order, cut to what is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from libs.families import load_decode
from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.pipelines import DecodePipeline


@pytest.fixture(scope="module")
def decode(model_dir: Path) -> DecodePipeline:
    return load_decode(model_dir, "diorama")


@pytest.fixture
def latents() -> dict[str, np.ndarray]:
    return {"latents": np.random.default_rng(0).standard_normal((1, 8, 6, 2, 4)).astype(np.float32) * 4}


def test_chunks_are_the_clamped_video_in_order(
    decode: DecodePipeline, latents: dict[str, np.ndarray], model_dir: Path
) -> None:
    chunks = list(decode(latents, 20))
    assert [chunk.shape for chunk in chunks] == [(8, 32, 64, 3), (8, 32, 64, 3), (4, 32, 64, 3)]
    vae = AutoencoderDiorama.from_pretrained(model_dir / "vae", low_cpu_mem_usage=False)
    with torch.no_grad():
        video = vae.decode(torch.from_numpy(latents["latents"]))[0, :, :20].permute(1, 2, 3, 0).numpy()
    expected = np.clip((video + 1.0) * 127.5, 0, 255)
    frames = np.concatenate(chunks)
    assert frames.dtype == np.uint8
    assert np.abs(frames - expected).max() <= 0.501
    assert (expected == 255).any(), "the test must reach the clamp"


def test_more_frames_than_the_latents_hold_is_an_error(decode: DecodePipeline, latents: dict[str, np.ndarray]) -> None:
    assert sum(len(chunk) for chunk in decode(latents, 21)) == 21
    with pytest.raises(ValueError, match="hold 21 frames, 22 were asked for"):
        list(decode(latents, 22))
