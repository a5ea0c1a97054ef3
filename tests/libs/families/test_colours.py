"""Previews of diffusers' families: a linear map fitted to the decoder, of what a step takes for the clean latents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from libs.families import load_decode, load_denoise, load_encode
from libs.families.colours import Colours, fitted
from libs.families.pipelines import DenoisePipeline
from libs.families.step import Step
from tests.support.tiny_families import TINY, write_tiny

pytestmark = pytest.mark.usefixtures("one_thread")

DIORAMA = Path(__file__).parents[3] / "models" / "diorama"
CASES = [("ltx", False), ("ltx", True), ("ltx2", False), ("ltx2", True), ("wan22-i2v", True)]
CASES += [("wan22-5b", False), ("wan22-5b", True), ("hunyuan15-t2v", False)]
"""Every way to the clean latents: one loop of `wan22` and of `hunyuan15` takes the same as the other."""
STEPS = 4


def run(
    pipeline: DenoisePipeline, conditioning: Any, model: str, every: int
) -> tuple[dict[str, NDArray[np.float32]], list[Step]]:
    _, (width, height), fps, *_ = TINY[model]
    steps: list[Step] = []
    made = pipeline(
        conditioning,
        width=width,
        height=height,
        num_frames=9,
        fps=float(fps),
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        seed=11,
        preview_every_steps=every,
        on_step=steps.append,
    )
    return made, steps


def with_a_map(pipeline: DenoisePipeline) -> Colours:
    """As if the fit were over, with numbers that every channel and every pixel show in."""
    colours = pipeline.colours
    assert colours is not None
    colours.begin = lambda: None  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(3)
    colours._map = torch.randn(colours._channels + 1, 3, generator=generator) * 30 + 20
    return colours


@pytest.mark.parametrize(("model", "from_image"), CASES)
def test_previews_show_the_clean_latents_and_change_none(models: Path, model: str, from_image: bool) -> None:
    """After the last step nothing is left to predict: its preview is that of the latents themselves."""
    family, (width, height), *_ = TINY[model]
    folder = models / model if (models / model).exists() else write_tiny(models, model)
    image = np.random.default_rng(5).integers(0, 256, (90, 120, 3), dtype=np.uint8) if from_image else None
    conditioning = load_encode(folder, family)("a red ball", "blur", image, width, height, 9)
    pipeline = load_denoise(folder, family)
    colours = with_a_map(pipeline)
    made, steps = run(pipeline, conditioning, model, 2)
    plain, _ = run(pipeline, conditioning, model, 0)
    for name, tensor in plain.items():
        np.testing.assert_array_equal(made[name], tensor)
    latents = made["latents"]

    first, last = steps[1].preview, steps[-1].preview
    assert [step.preview is not None for step in steps] == [False, True, False, True]
    assert first is not None
    assert last is not None
    _, _, _, rows, columns = latents.shape
    times = 96 // rows
    assert last.shape == (times * rows, 3 * times * columns, 3)
    assert last.dtype == np.uint8
    shown = colours.strip(torch.from_numpy(latents))
    assert shown is not None
    assert np.abs(last.astype(int) - shown).max() <= 1
    assert np.abs(first.astype(int) - shown).max() > 5
    if family == "ltx2":
        assert steps[1].sound is not None
        assert steps[-1].sound is not None
        np.testing.assert_allclose(steps[-1].sound["audio_latents"], made["audio_latents"], rtol=0, atol=1e-5)
        assert np.abs(steps[1].sound["audio_latents"] - made["audio_latents"]).max() > 0.1
    if from_image and family in ("ltx", "ltx2", "wan22-5b"):
        width = times * columns
        assert np.abs(first[:, :width].astype(int) - shown[:, :width]).max() <= 1, "the given frame is clean at once"


def test_what_a_linear_decoder_does_is_found() -> None:
    truth = torch.randn(17, 3, generator=torch.Generator().manual_seed(1)) * 8
    truth[-1] += 128

    def decode(latents: Mapping[str, NDArray[np.float32]], num_frames: int) -> Iterator[NDArray[np.uint8]]:
        colours = torch.einsum("cfhw,cd->fhwd", torch.from_numpy(latents["latents"])[0], truth[:-1]) + truth[-1]
        large = colours.repeat_interleave(8, 1).repeat_interleave(8, 2)
        frames = torch.cat([large[:1], large[1:].repeat_interleave(num_frames - 1, 0)])
        yield from frames.clamp(0, 255).round().byte().numpy().reshape(num_frames, 1, *large.shape[1:])

    found = fitted(decode, 16, 4)
    assert found is not None
    assert (found - truth).abs().max() < 0.5
    assert (found == fitted(decode, 16, 4)).all(), "the same clips every time"


def test_a_trained_decoder_is_met_well() -> None:
    """Diorama's is the one trained decoder here, on smooth latents that were not fitted to."""
    decode = load_decode(DIORAMA, "diorama")
    channels = decode._components["vae"].config.latent_channels
    colours = Colours(channels, 4, lambda: decode)
    colours._map = fitted(decode, channels, 4)
    generator = torch.Generator().manual_seed(9)
    smooth = torch.nn.functional.interpolate(torch.randn(1, channels, 1, 4, 4, generator=generator), (1, 12, 12))
    shown = colours.strip(smooth)
    assert shown is not None
    frame = next(decode({"latents": smooth.numpy()}, 1))[0].astype(float)
    size = frame.shape[0] // 12
    means = frame.reshape(12, size, 12, size, 3).mean((1, 3))[1:-1, 1:-1]
    drawn = shown[:, : shown.shape[0]].reshape(12, 8, 12, 8, 3)[:, 3, :, 3][1:-1, 1:-1]
    likeness = [float(np.corrcoef(means[..., colour].ravel(), drawn[..., colour].ravel())[0, 1]) for colour in range(3)]
    assert min(likeness) > 0.9, likeness


def test_without_the_decoders_weights_there_are_no_previews(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = models / "wan22-t2v" if (models / "wan22-t2v").exists() else write_tiny(models, "wan22-t2v")
    conditioning = load_encode(folder, "wan22")("a red ball", "blur", None, 32, 32, 9)
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    pipeline = load_denoise(bare, "wan22")
    assert pipeline.colours is not None
    assert pipeline.colours.wait(60)
    _, steps = run(pipeline, conditioning, "wan22-t2v", 1)
    assert [step.preview for step in steps] == [None] * STEPS
    assert "no previews of this model" in caplog.text
