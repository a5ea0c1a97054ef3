"""The encoder blocks: what the text becomes, and how a first frame is fitted to the video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from libs.families import load_encode
from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.first_frame import fit_image
from libs.families.pipelines import EncodePipeline


@pytest.fixture(scope="module")
def encode(model_dir: Path) -> EncodePipeline:
    return load_encode(model_dir, "diorama")


def test_loading_writes_nothing_on_stderr(model_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A service's stderr is JSON lines: no progress bar, no table of weights."""
    load_encode(model_dir, "diorama")
    assert capfd.readouterr().err == ""


def text(encode: EncodePipeline, prompt: str, negative: str = "") -> dict[str, np.ndarray]:
    return encode(prompt, negative, None, 32, 32, 12)


def test_mean_of_the_tokens_comes_first(encode: EncodePipeline) -> None:
    made = text(encode, "a campfire at night")
    tokens = made["prompt_embeds"][0]
    assert made["prompt_embeds"].shape == (1, 8, 384)
    assert made["prompt_embeds"].dtype == np.float32
    np.testing.assert_allclose(tokens[0], tokens[1:].mean(axis=0), atol=1e-6)


def test_empty_prompt_is_padded_to_the_longer_one(encode: EncodePipeline) -> None:
    made = text(encode, "a campfire at night")
    assert made["prompt_attention_mask"].tolist() == [[1] * 8]
    assert made["negative_prompt_attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
    assert made["negative_prompt_attention_mask"].dtype == np.int64
    assert not made["negative_prompt_embeds"][0, 3:].any()
    assert "first_frame_latents" not in made


def test_a_prompt_s_embedding_does_not_depend_on_the_other_prompt(encode: EncodePipeline) -> None:
    alone = text(encode, "rain")["prompt_embeds"][0]
    beside = text(encode, "rain", "a long list of things that nobody wants to see")
    np.testing.assert_array_equal(beside["prompt_embeds"][0, : len(alone)], alone)
    assert beside["prompt_attention_mask"].sum() == len(alone)


def test_long_text_is_cut_at_128_rows(encode: EncodePipeline) -> None:
    assert text(encode, "fire " * 700)["prompt_embeds"].shape == (1, 128, 384)


def test_first_frame_becomes_the_autoencoder_s_latents(encode: EncodePipeline, model_dir: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 32, 3), np.uint8)
    latents = encode("fire", "", image, 32, 64, 12)["first_frame_latents"]
    vae = AutoencoderDiorama.from_pretrained(model_dir / "vae", low_cpu_mem_usage=False)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None, :, None] / 127.5 - 1.0
    assert latents.shape == (1, 8, 1, 4, 2)
    np.testing.assert_allclose(latents, vae.encode(pixels).numpy(), atol=1e-6)


@pytest.mark.parametrize(("shape", "axis"), [((60, 180), 1), ((180, 60), 0)])
def test_image_is_cropped_around_its_centre(shape: tuple[int, int], axis: int) -> None:
    """Thirds of red, green, blue along the long side: a square keeps the middle one only."""
    image = np.zeros((*shape, 3), np.uint8)
    for channel, third in enumerate(np.array_split(np.arange(shape[axis]), 3)):
        image[(slice(None), third, channel) if axis else (third, slice(None), channel)] = 200
    fitted = fit_image(image, 32, 32)
    assert fitted.shape == (32, 32, 3)
    np.testing.assert_allclose(fitted[2:-2, 2:-2].reshape(-1, 3), [[0, 200, 0]] * 28 * 28, atol=1)


def test_image_of_the_right_size_is_left_as_it_is() -> None:
    image = np.random.default_rng(1).integers(0, 256, (32, 64, 3), np.uint8)
    np.testing.assert_array_equal(fit_image(image, 64, 32), image)
