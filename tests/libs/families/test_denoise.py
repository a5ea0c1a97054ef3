"""The denoise blocks against what they stand for, written out here with diffusers' scheduler alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaVideoTransformer3DModel
from torch import Tensor, nn

from libs.errors import FailedPrecondition
from libs.families import Step, load_denoise
from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.diorama.components import load_transformer
from libs.families.diorama.denoising import BatchedGuidanceDenoiser, to_uint8
from libs.families.diorama.positions import POSITION_CHANNELS, position_channels
from libs.families.pipelines import DenoisePipeline
from tests.support.precision import bfloat16_is_fast
from tests.support.tiny_diorama import LATENT_CHANNELS, TEXT_CHANNELS

STEPS = 7
Conditioning = dict[str, np.ndarray]


class Counting(nn.Module):
    """A stand-in for the transformer that shares nothing with it but its call: what a remote one would be."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.config = inner.config
        self.calls: list[int] = []
        self._call: Callable[..., Any] = inner.forward

    def forward(self, **inputs: Any) -> Any:
        self.calls.append(len(inputs["hidden_states"]))
        return self._call(**inputs)


@pytest.fixture(scope="module")
def denoise(model_dir: Path) -> DenoisePipeline:
    return load_denoise(model_dir, "diorama")


@pytest.fixture(scope="module")
def transformer(model_dir: Path) -> nn.Module:
    return load_transformer(model_dir)


@pytest.fixture(scope="module")
def transformer_2(model_dir: Path) -> nn.Module:
    return load_transformer(model_dir, "transformer_2")


def conditioning(
    tokens: int = 6, negative_tokens: int = 3, *, seed: int = 0, first_frame: bool = False
) -> Conditioning:
    rng = np.random.default_rng(seed)
    made: Conditioning = {}
    for name, count in (("prompt", tokens), ("negative_prompt", negative_tokens)):
        rows = rng.standard_normal((1, tokens, TEXT_CHANNELS)).astype(np.float32)
        mask = (np.arange(tokens) < count).astype(np.int64)[None]
        made |= {f"{name}_embeds": rows * mask[..., None].astype(np.float32), f"{name}_attention_mask": mask}
    if first_frame:
        made["first_frame_latents"] = rng.standard_normal((1, LATENT_CHANNELS, 1, 2, 2)).astype(np.float32)
    return made


def run(denoise: DenoisePipeline, given: Conditioning, on_step: Any = lambda _: None, **changes: Any) -> np.ndarray:
    arguments: dict[str, Any] = {
        "width": 32,
        "height": 32,
        "num_frames": 12,
        "fps": 12.0,
        "num_inference_steps": STEPS,
        "guidance_scale": 3.0,
        "seed": 7,
        "preview_every_steps": 0,
    }
    return denoise(given, **arguments | changes, on_step=on_step)["latents"]


@torch.inference_mode()
def bare_loop(
    model_dir: Path, experts: tuple[nn.Module, nn.Module], given: Conditioning, guidance_scale: float
) -> np.ndarray:
    """Flow matching with two calls a step, as a script would have it; guidance where sigma is at least 0.4.

    The first expert gives clean latents where sigma is at least 0.85, the second velocities below.
    """
    text = {name: torch.from_numpy(tensor) for name, tensor in given.items()}
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(model_dir / "scheduler")
    scheduler.set_timesteps(sigmas=[1 - step / STEPS for step in range(STEPS)])
    x = torch.randn((1, LATENT_CHANNELS, 4, 2, 2), generator=torch.Generator().manual_seed(7))
    image = torch.zeros((1, 1 + LATENT_CHANNELS, 4, 2, 2))
    first = text.get("first_frame_latents")
    if first is not None:
        image[:, 0, 0] = 1.0
        image[:, 1:, 0] = first[:, :, 0]

    place = position_channels(4, 2, 2)[None]

    def velocity(name: str, t: Tensor) -> Tensor:
        mask = text[f"{name}_attention_mask"]
        inputs = torch.cat([x, image, place], dim=1)
        layout = bool(t / 1000 >= 0.85)
        made = experts[0 if layout else 1](inputs, text[f"{name}_embeds"], t[None], encoder_attention_mask=mask).sample
        return (x - made) / (t / 1000) if layout else made

    for t in scheduler.timesteps:
        v = velocity("prompt", t)
        if t / 1000 >= 0.4:
            v = v + (guidance_scale - 1) * (v - velocity("negative_prompt", t))
        x = scheduler.step(v, t, x).prev_sample
    if first is not None:
        x[:, :, 0] = first[:, :, 0]
    return x.numpy()


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("first_frame", [False, True], ids=["text", "image"])
def test_loop_equals_a_bare_one(
    denoise: DenoisePipeline,
    transformer: nn.Module,
    transformer_2: nn.Module,
    model_dir: Path,
    first_frame: bool,
) -> None:
    given = conditioning(first_frame=first_frame)
    expected = bare_loop(model_dir, (transformer, transformer_2), given, 3.0)
    assert expected.shape == (1, LATENT_CHANNELS, 4, 2, 2)
    np.testing.assert_allclose(run(denoise, given), expected, atol=1e-5, rtol=1e-5)


def test_products_in_bfloat16_change_latents_a_little(denoise: DenoisePipeline) -> None:
    given, made = conditioning(), []
    for fast in (False, True):
        with bfloat16_is_fast(fast):
            made.append(run(denoise, given))
    exact, quick = made
    assert quick.dtype == np.float32
    assert 0 < np.abs(quick - exact).max() < 0.1 * exact.std()


@pytest.mark.usefixtures("in_float32")
@torch.inference_mode()
def test_batched_guidance_equals_two_calls_without_padding(transformer_2: nn.Module) -> None:
    """The short prompt is called alone without its padding: the mask must make the padding count for nothing."""
    given = {name: torch.from_numpy(tensor) for name, tensor in conditioning(6, 3).items()}
    x, t = torch.randn(1, 2 * LATENT_CHANNELS + 1 + POSITION_CHANNELS, 2, 2, 2), torch.tensor(400.0)
    counting = Counting(transformer_2)
    state = SimpleNamespace(
        latent_model_input=x,
        latents=x[:, :LATENT_CHANNELS],
        encoder_hidden_states=torch.cat([given["prompt_embeds"], given["negative_prompt_embeds"] + 9.0]),
        encoder_attention_mask=torch.cat([given["prompt_attention_mask"], given["negative_prompt_attention_mask"]]),
        guidance_scale=2.5,
    )
    components = SimpleNamespace(transformer_2=counting, scheduler=SimpleNamespace(sigmas=torch.tensor([0.4, 0.0])))
    BatchedGuidanceDenoiser()(components, state, i=0, t=t)
    positive = transformer_2(x, given["prompt_embeds"], t[None]).sample
    negative = transformer_2(x, given["negative_prompt_embeds"][:, :3] + 9.0, t[None]).sample
    velocity = negative + 2.5 * (positive - negative)
    torch.testing.assert_close(state.noise_pred, velocity, atol=1e-5, rtol=1e-5)
    assert counting.calls == [2]


def test_one_row_without_guidance_and_two_with(
    model_dir: Path, transformer: nn.Module, transformer_2: nn.Module
) -> None:
    """Of sigmas 1, 0.95, 0.88, 0.8, 0.69, 0.55, 0.33 the first expert has three, and at the last guidance is off."""
    layout, detail = Counting(transformer), Counting(transformer_2)
    denoise = load_denoise(model_dir, "diorama", {"transformer": layout, "transformer_2": detail})
    run(denoise, conditioning(), guidance_scale=1.0)
    run(denoise, conditioning(), guidance_scale=1.5)
    assert layout.calls == [1] * 3 + [2] * 3
    assert detail.calls == [1] * 4 + [2, 2, 2, 1]


def test_without_guidance_the_negative_prompt_does_not_matter(denoise: DenoisePipeline) -> None:
    given = conditioning()
    other = given | {"negative_prompt_embeds": given["negative_prompt_embeds"] + 1.0}
    np.testing.assert_array_equal(run(denoise, given, guidance_scale=1.0), run(denoise, other, guidance_scale=1.0))
    assert (run(denoise, given) != run(denoise, other)).any()


def test_same_seed_same_bits_another_seed_or_prompt_others(denoise: DenoisePipeline) -> None:
    first = run(denoise, conditioning())
    np.testing.assert_array_equal(run(denoise, conditioning()), first)
    assert np.abs(run(denoise, conditioning(), seed=8) - first).max() > 0.1
    assert np.abs(run(denoise, conditioning(seed=1)) - first).max() > 0.01


def test_two_videos_step_by_step_in_turns_get_the_bits_they_get_alone(denoise: DenoisePipeline) -> None:
    seeds = (1, 2)
    alone = [run(denoise, conditioning(), seed=seed) for seed in seeds]
    barrier = threading.Barrier(2)
    together: dict[int, np.ndarray] = {}

    def one(seed: int) -> None:
        together[seed] = run(denoise, conditioning(), lambda _: barrier.wait(60), seed=seed)

    threads = [threading.Thread(target=one, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for seed, latents in zip(seeds, alone, strict=True):
        np.testing.assert_array_equal(together[seed], latents)


def test_first_frame_is_kept_and_steers_the_rest(denoise: DenoisePipeline) -> None:
    given = conditioning(first_frame=True)
    latents = run(denoise, given)
    np.testing.assert_array_equal(latents[:, :, :1], given["first_frame_latents"])
    del given["first_frame_latents"]
    assert np.abs(run(denoise, given)[:, :, 1:] - latents[:, :, 1:]).max() > 1e-3


def test_every_step_is_told_with_a_preview_every_second(denoise: DenoisePipeline) -> None:
    steps: list[Step] = []
    run(denoise, conditioning(), steps.append, preview_every_steps=2, width=64)
    assert [(step.index, step.total) for step in steps] == [(index, STEPS) for index in range(1, STEPS + 1)]
    assert all(step.seconds > 0 for step in steps)
    assert [step.preview is not None for step in steps] == [False, True, False, True, False, True, False]
    assert steps[1].preview is not None
    assert steps[1].preview.shape == (32, 3 * 64, 3)
    assert steps[1].preview.dtype == np.uint8


def test_last_preview_shows_the_final_latents(denoise: DenoisePipeline, model_dir: Path) -> None:
    """After the last step nothing of the noise is left, so the estimate is the result: begin, middle and end of it."""
    steps: list[Step] = []
    latents = run(denoise, conditioning(), steps.append, preview_every_steps=STEPS)
    vae = AutoencoderDiorama.from_pretrained(model_dir / "vae", low_cpu_mem_usage=False)
    frames = to_uint8(vae.decode_linear(torch.from_numpy(latents))[0])
    assert len(frames) == 13
    assert steps[-1].preview is not None
    expected = np.concatenate([frames[0], frames[2], frames[12]], axis=1)
    assert np.abs(steps[-1].preview.astype(int) - expected).max() <= 1


def test_what_on_step_raises_ends_the_loop_at_once(
    model_dir: Path, transformer: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    counting = Counting(transformer)
    denoise = load_denoise(model_dir, "diorama", {"transformer": counting})

    def stop_at_two(step: Step) -> None:
        if step.index == 2:
            raise InterruptedError("enough")

    with caplog.at_level(logging.ERROR), pytest.raises(InterruptedError, match="enough"):
        run(denoise, conditioning(), stop_at_two)
    assert len(counting.calls) == 2
    assert caplog.records == []


def without(name: str) -> Conditioning:
    return {key: tensor for key, tensor in conditioning(first_frame=True).items() if key != name}


@pytest.mark.parametrize(
    ("given", "tensor"),
    [
        (without("prompt_embeds"), "prompt_embeds"),
        (without("negative_prompt_attention_mask"), "negative_prompt_attention_mask"),
        (conditioning(129), "prompt_embeds"),
        (conditioning() | {"prompt_embeds": np.zeros((1, 6, 100), np.float32)}, "prompt_embeds"),
        (conditioning() | {"prompt_embeds": np.zeros((6, 384), np.float32)}, "prompt_embeds"),
        (conditioning() | {"prompt_embeds": np.full((1, 6, 384), np.nan, np.float32)}, "prompt_embeds"),
        (conditioning() | {"prompt_embeds": np.zeros((1, 6, 384))}, "prompt_embeds"),
        (conditioning() | {"prompt_attention_mask": np.ones((1, 5), np.int64)}, "prompt_attention_mask"),
        (conditioning() | {"first_frame_latents": np.zeros((1, 8, 1, 4, 4), np.float32)}, "first_frame_latents"),
        (conditioning() | {"audio_latents": np.zeros(1, np.float32)}, "audio_latents"),
    ],
)
def test_conditioning_that_does_not_fit_is_refused(denoise: DenoisePipeline, given: Conditioning, tensor: str) -> None:
    with pytest.raises(FailedPrecondition, match=tensor) as raised:
        run(denoise, given)
    assert raised.value.reason == "CONDITIONING_UNFITTING"
    assert raised.value.metadata == {"tensor": tensor}


@torch.inference_mode()
def test_quick_attention_equals_diffusers_own(model_dir: Path, transformer: nn.Module) -> None:
    given = conditioning(6, 3)
    x, t = torch.randn(2, 2 * LATENT_CHANNELS + 1 + POSITION_CHANNELS, 3, 4, 2), torch.tensor([400.0, 20.0])
    masks = [torch.from_numpy(given[f"{name}_attention_mask"]) for name in ("prompt", "negative_prompt")]
    embeds = torch.randn(2, 6, TEXT_CHANNELS)
    own = SanaVideoTransformer3DModel.from_pretrained(model_dir / "transformer", low_cpu_mem_usage=False).eval()
    for mask in (torch.cat(masks), None):
        made, expected = (model(x, embeds, t, encoder_attention_mask=mask).sample for model in (transformer, own))
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def test_transformer_of_the_folder_is_what_is_loaded(transformer: nn.Module) -> None:
    assert isinstance(transformer, SanaVideoTransformer3DModel)
    assert transformer.dtype == torch.float32
    assert not transformer.training
