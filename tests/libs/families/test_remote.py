"""Networks that run elsewhere, with the elsewhere in this process: names, shapes, windows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from libs.errors import FailedPrecondition
from libs.families import load_decode, load_remote_decoder, load_remote_transformers
from libs.families.diorama.components import load_for_decode, load_transformer
from libs.families.networks import network_named
from libs.families.served import ServedNetwork
from tests.support.tiny_diorama import LATENT_CHANNELS, TEXT_CHANNELS


class Elsewhere:
    """Runs networks here and keeps what was asked: name, shapes in, shapes and types expected."""

    def __init__(self, model_dir: Path) -> None:
        self._model_dir = model_dir
        self.asked: list[tuple[str, dict[str, tuple[int, ...]], Any]] = []

    def __call__(
        self, name: str, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, Any], /
    ) -> dict[str, NDArray[Any]]:
        self.asked.append((name, {key: array.shape for key, array in inputs.items()}, outputs))
        network = ServedNetwork(self._model_dir, "diorama", name.removeprefix("diorama_"))
        made = network({key: torch.from_numpy(array) for key, array in inputs.items()})
        arrays = {key: tensor.numpy() for key, tensor in made.items()}
        assert {key: (array.shape, array.dtype) for key, array in arrays.items()} == outputs
        return arrays


@pytest.mark.parametrize("name", ["transformer", "transformer_2"])
@pytest.mark.parametrize("return_dict", [True, False])
@torch.inference_mode()
def test_a_remote_transformer_is_called_like_a_local_one(model_dir: Path, name: str, return_dict: bool) -> None:
    elsewhere = Elsewhere(model_dir)
    remote = load_remote_transformers(model_dir, "diorama", elsewhere)[name]
    local = load_transformer(model_dir, name)
    given: dict[str, Any] = {
        "hidden_states": torch.randn(1, 2 * LATENT_CHANNELS + 14, 3, 4, 2).expand(2, -1, -1, -1, -1),
        "encoder_hidden_states": torch.randn(2, 6, TEXT_CHANNELS),
        "encoder_attention_mask": torch.ones(2, 6, dtype=torch.int64),
        "timestep": torch.tensor(400.0).expand(2),
        "return_dict": return_dict,
    }
    made, expected = remote(**given), local(**given)
    torch.testing.assert_close(*((x.sample if return_dict else x[0]) for x in (made, expected)), rtol=0, atol=0)
    assert remote.config.caption_channels == TEXT_CHANNELS
    assert (remote.dtype, elsewhere.asked[0][0]) == (torch.float32, f"diorama_{name}")
    assert elsewhere.asked[0][1]["timestep"] == (2, 1)


@pytest.mark.parametrize("latent_frames", [1, 2, 16])
@torch.inference_mode()
def test_a_remote_decoder_gives_the_picture_of_the_whole(model_dir: Path, latent_frames: int) -> None:
    latents = torch.randn(1, LATENT_CHANNELS, 11, 2, 4, generator=torch.Generator().manual_seed(2))
    vae = load_for_decode(model_dir)["vae"]
    elsewhere = Elsewhere(model_dir)
    decoder = load_remote_decoder(model_dir, "diorama", elsewhere)
    chunks = list(decoder.decode_chunks(latents, latent_frames))
    torch.testing.assert_close(torch.cat(chunks, dim=2), vae.decode(latents).clamp(-1, 1), rtol=0, atol=1e-5)
    assert len(chunks) == {1: 5, 2: 3, 16: 1}[latent_frames], "the video's ends need no margin: more is kept there"
    longest = max(shapes["latents"][2] for _, shapes, _ in elsewhere.asked)
    assert longest <= latent_frames + 2 * 3, "a window and the margins of one block, whatever the video's length"


def test_the_decode_stage_with_a_remote_decoder(model_dir: Path) -> None:
    latents = {"latents": np.random.default_rng(1).normal(size=(1, LATENT_CHANNELS, 4, 2, 2)).astype(np.float32)}
    remote = load_decode(model_dir, "diorama", load_remote_decoder(model_dir, "diorama", Elsewhere(model_dir)))
    made, expected = (
        np.concatenate(list(decode(latents, 12))) for decode in (remote, load_decode(model_dir, "diorama"))
    )
    assert made.shape == (12, 32, 32, 3)
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_a_probe_is_a_real_inference_of_the_least_size(model_dir: Path) -> None:
    elsewhere = Elsewhere(model_dir)
    load_remote_transformers(model_dir, "diorama", elsewhere)["transformer"].remote.probe(64, 32, 3)
    load_remote_decoder(model_dir, "diorama", elsewhere).remote.probe(64, 32, 3)
    transformer, decoder = (shapes for _, shapes, _ in elsewhere.asked)
    assert transformer["hidden_states"] == (1, 2 * LATENT_CHANNELS + 14, 2, 2, 4)
    assert transformer["encoder_hidden_states"] == (1, 1, TEXT_CHANNELS)
    assert decoder["latents"] == (1, LATENT_CHANNELS, 2, 2, 4)


def test_a_network_that_is_not_in_the_table() -> None:
    with pytest.raises(FailedPrecondition, match="diorama transformer") as raised:
        network_named("diorama", "vocoder")
    assert raised.value.reason == "NETWORK_UNKNOWN"
