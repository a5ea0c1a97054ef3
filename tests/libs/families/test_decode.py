"""The decode block: latents to frames, chunk by chunk, in order, cut to what is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from libs.errors import FailedPrecondition
from libs.families import load_decode
from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.diorama.residual import ResidualBlock, Tail
from libs.families.pipelines import DecodePipeline


@pytest.fixture(scope="module")
def decode(model_dir: Path) -> DecodePipeline:
    return load_decode(model_dir, "diorama")


@pytest.fixture(scope="module")
def vae() -> AutoencoderDiorama:
    """As deep as the real one, with weights that make every frame depend on its neighbours."""
    torch.manual_seed(3)
    vae = AutoencoderDiorama(latent_channels=8, latent_width=8, detail_width=8, depth=3)
    with torch.no_grad():
        for parameter in (*vae.residual.parameters(), vae.basis):
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return vae.eval().requires_grad_(False)


@pytest.fixture
def latents() -> dict[str, np.ndarray]:
    return {"latents": np.random.default_rng(0).standard_normal((1, 8, 6, 2, 4)).astype(np.float32) * 4}


def test_chunks_are_the_clamped_video_in_order(
    decode: DecodePipeline, latents: dict[str, np.ndarray], model_dir: Path
) -> None:
    chunks = list(decode(latents, 20))
    assert len(chunks) == 3
    assert max(len(chunk) for chunk in chunks) < 12
    vae = AutoencoderDiorama.from_pretrained(model_dir / "vae", low_cpu_mem_usage=False)
    with torch.no_grad():
        video = vae.decode(torch.from_numpy(latents["latents"]))[0, :, :20].permute(1, 2, 3, 0).numpy()
    expected = np.clip((video + 1.0) * 127.5, 0, 255)
    frames = np.concatenate(chunks)
    assert frames.dtype == np.uint8
    assert frames.shape == (20, 32, 64, 3)
    assert np.abs(frames - expected).max() <= 0.501
    assert (expected == 255).any(), "the test must reach the clamp"


@pytest.mark.parametrize("latent_frames", [1, 2, 3, 7])
def test_chunks_equal_the_whole(vae: AutoencoderDiorama, latent_frames: int) -> None:
    for held in (1, 2, 7):
        latents = torch.randn(1, 8, held, 1, 2)
        whole = vae.decode(latents)
        chunks = list(vae.decode_chunks(latents, latent_frames))
        torch.testing.assert_close(torch.cat(chunks, dim=2), whole, atol=1e-5, rtol=1e-5)
        assert whole.shape == (1, 3, 4 * held - 3, 16, 32)
        assert max(chunk.shape[2] for chunk in chunks) <= 4 * latent_frames + 3


def test_only_what_is_asked_for_is_decoded(decode: DecodePipeline, latents: dict[str, np.ndarray]) -> None:
    worked: list[int] = []
    block = decode._components["vae"].residual.detail_blocks[0]
    handle = block.register_forward_hook(lambda *_: worked.append(1))
    try:
        chunks = decode(latents, 21)
        assert worked == []
        next(chunks)
        assert worked == [1]
        chunks.close()  # type: ignore[attr-defined]
        assert worked == [1]
        assert [len(chunk) for chunk in decode(latents, 3)] == [3]
        assert len(worked) == 2
    finally:
        handle.remove()


def test_a_block_is_its_convolutions_written_with_torch_s_own(vae: AutoencoderDiorama) -> None:
    """As in a 3-D convolution over (B, C, T, H, W), which is how the weights are stored."""
    block = vae.residual.detail_blocks[1]
    assert isinstance(block, ResidualBlock)
    hidden = torch.randn(2, 8, 5, 4, 6)
    normed = hidden * hidden.pow(2).mean(dim=1, keepdim=True).add(1e-6).rsqrt() * block.gain[:, None, None, None]
    expected = hidden + block.time(torch.nn.functional.silu(block.space(normed)))
    made = block(hidden.permute(0, 2, 3, 4, 1), Tail(), last=True).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def test_more_frames_than_the_latents_hold_are_refused(decode: DecodePipeline, latents: dict[str, np.ndarray]) -> None:
    assert sum(len(chunk) for chunk in decode(latents, 21)) == 21
    with pytest.raises(FailedPrecondition, match="hold 21 frames, 22 were asked for"):
        decode(latents, 22)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "the file holds nothing"),
        ({"audio": np.zeros(3, np.float32)}, "the file holds audio"),
        ({"latents": np.zeros((1, 16, 3, 2, 2), np.float32)}, r"float32 \(1, 8, F, h, w\)"),
        ({"latents": np.zeros((2, 8, 3, 2, 2), np.float32)}, r"float32 \(1, 8, F, h, w\)"),
        ({"latents": np.zeros((1, 8, 3, 2), np.float32)}, r"float32 \(1, 8, F, h, w\)"),
        ({"latents": np.zeros((1, 8, 3, 0, 2), np.float32)}, r"float32 \(1, 8, F, h, w\)"),
        ({"latents": np.zeros((1, 8, 3, 2, 2), np.float16)}, r"float32 \(1, 8, F, h, w\)"),
        ({"latents": np.full((1, 8, 3, 2, 2), np.inf, np.float32)}, "not finite"),
    ],
)
def test_latents_that_do_not_fit_are_refused_at_once(
    decode: DecodePipeline, given: dict[str, np.ndarray], what: str
) -> None:
    with pytest.raises(FailedPrecondition, match=what) as raised:
        decode(given, 9)
    assert raised.value.reason == "LATENTS_UNFIT"
