"""The families' denoise loops and decoders with their networks elsewhere: the same latents and frames as in process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from libs.errors import FailedPrecondition
from libs.families import load_decode, load_denoise, load_encode, load_remote_decoder, load_remote_transformers
from libs.families.networks import NETWORKS
from libs.families.served import ServedNetwork
from tests.support.tiny_families import TINY, write_tiny

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = [(model, False) for model in TINY if not model.endswith("-i2v")]
CASES += [(model, True) for model, (_, _, _, image, _) in TINY.items() if image]
FRAMES = {"ltx": 9, "ltx2": 9}
"""Two latent frames; 5 for those that hold 4 frames each."""
LONG = 40
"""Latent frames: more than a window of three and its margins hold, for every tiny decoder."""
MANY_TIMESTEPS = {"ltx", "ltx2"}
"""From text the loop has one timestep for all tokens, and the network gets one for each: the last bits may differ."""


class Elsewhere:
    """Each network in this process, behind the names and shapes of the table."""

    def __init__(self, model_dir: Path, family: str) -> None:
        self._prefix = f"{model_dir.name}_"
        self._networks = {name: ServedNetwork(model_dir, family, name) for name in NETWORKS[family]}
        self.asked: list[str] = []

    def __call__(
        self, name: str, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, Any], /
    ) -> dict[str, NDArray[Any]]:
        network = name.removeprefix(self._prefix)
        self.asked.append(network)
        made = self._networks[network]({key: torch.from_numpy(array) for key, array in inputs.items()})
        arrays = {key: tensor.numpy() for key, tensor in made.items()}
        assert {key: (array.shape, array.dtype) for key, array in arrays.items()} == outputs
        return arrays


def denoised(folder: Path, model: str, conditioning: Any, others: Any) -> dict[str, NDArray[np.float32]]:
    family, (width, height), fps, *_ = TINY[model]
    return load_denoise(folder, family, others)(
        conditioning,
        width=width,
        height=height,
        num_frames=FRAMES.get(family, 5),
        fps=float(fps),
        num_inference_steps=4,
        guidance_scale=3.0,
        seed=11,
        preview_every_steps=0,
        on_step=lambda _: None,
    )


@pytest.mark.parametrize(("model", "from_image"), CASES)
def test_latents_and_frames_equal_those_of_one_process(models: Path, model: str, from_image: bool) -> None:
    family, (width, height), *_ = TINY[model]
    frames = FRAMES.get(family, 5)
    folder = models / model if (models / model).exists() else write_tiny(models, model)
    image = np.random.default_rng(5).integers(0, 256, (90, 120, 3), dtype=np.uint8) if from_image else None
    prompt = 'a red ball rolls down the hill, at night "no"'
    conditioning = load_encode(folder, family)(prompt, "blur", image, width, height, frames)
    elsewhere = Elsewhere(folder, family)

    expected = denoised(folder, model, conditioning, {})
    made = denoised(folder, model, conditioning, load_remote_transformers(folder, family, elsewhere))
    assert set(made) == set(expected)
    atol = 1e-5 if family in MANY_TIMESTEPS and not from_image else 0
    for name, tensor in expected.items():
        np.testing.assert_allclose(made[name], tensor, rtol=0, atol=atol, err_msg=name)
    assert set(elsewhere.asked) == set(NETWORKS[family]) - {"vae_decoder"}, "every expert has its steps"

    remote = load_decode(folder, family, load_remote_decoder(folder, family, elsewhere))
    seen, here = (np.concatenate(list(decode(expected, frames))) for decode in (remote, load_decode(folder, family)))
    assert here.std() > 1, "a picture that is all of one colour shows nothing"
    assert np.abs(seen.astype(int) - here).max() <= 1
    assert elsewhere.asked.count("vae_decoder") == 1, "nothing of it is made twice"


@pytest.mark.parametrize("model", ["ltx-0.9.5", "ltx2", "wan22-t2v", "wan22-5b", "hunyuan15-t2v"])
def test_a_long_video_in_windows_is_that_of_one_call(models: Path, model: str) -> None:
    family = TINY[model][0]
    folder = models / model if (models / model).exists() else write_tiny(models, model)
    elsewhere = Elsewhere(folder, family)
    decoder = load_remote_decoder(folder, family, elsewhere)
    side = 2 if family == "ltx2" else 1  # it reflects at borders
    generator = torch.Generator().manual_seed(4)
    name = next(name for name in ("latent_channels", "z_dim") if name in decoder.config)
    latents, noise = torch.randn(2, 1, decoder.config[name], LONG, side, side, generator=generator)
    others = {"decode_noise": noise} if family == "ltx" else {}
    (whole,) = decoder.decode_chunks(latents, LONG, **others)
    assert elsewhere.asked == ["vae_decoder"]
    chunks = list(decoder.decode_chunks(latents, 3, **others))
    torch.testing.assert_close(torch.cat(chunks, dim=2), whole, rtol=0, atol=1e-5)
    assert (len(chunks) > 2) == (family != "hunyuan15")


@pytest.mark.parametrize("model", sorted(TINY))
def test_every_network_answers_a_probe(models: Path, model: str) -> None:
    family, (width, height), *_ = TINY[model]
    folder = models / model if (models / model).exists() else write_tiny(models, model)
    elsewhere = Elsewhere(folder, family)
    for transformer in load_remote_transformers(folder, family, elsewhere).values():
        transformer.remote.probe(width, height, 1)
    load_remote_decoder(folder, family, elsewhere).remote.probe(width, height, 1)
    assert set(elsewhere.asked) == set(NETWORKS[family])


@pytest.mark.parametrize("model", sorted(TINY))
def test_every_loop_answers_a_probe(models: Path, model: str) -> None:
    """In process as elsewhere, by one call of the transformer that steps first."""
    family, (width, height), *_ = TINY[model]
    folder = models / model if (models / model).exists() else write_tiny(models, model)
    elsewhere = Elsewhere(folder, family)
    load_denoise(folder, family).probe(width, height, 5)
    load_denoise(folder, family, load_remote_transformers(folder, family, elsewhere)).probe(width, height, 5)
    assert elsewhere.asked == ["transformer"]


def test_a_mean_flow_model_is_refused(models: Path) -> None:
    folder = models / "hunyuan15-t2v"
    folder = folder if folder.exists() else write_tiny(models, folder.name)
    remote = load_remote_transformers(folder, "hunyuan15", Elsewhere(folder, "hunyuan15"))["transformer"]
    with pytest.raises(FailedPrecondition, match="mean flow"):
        remote(timestep_r=torch.zeros(1))
