"""Which transformer calls are left out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from libs.families import Step, load_denoise, load_remote_transformers
from libs.families.step_cache import StepCache
from tests.libs.families.test_remote import Elsewhere
from tests.support.tiny_diorama import TEXT_CHANNELS


class Gain(nn.Module):
    """Its output changes ``gain`` times as much, relatively, as its input."""

    config, dtype, device = {}, torch.float32, torch.device("cpu")
    cache_context = nullcontext

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain, self.calls = gain, 0

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
        self.calls += 1
        return (1 + self.gain * (hidden_states - 1).expand(len(encoder_hidden_states), -1, -1),)


def drifting(cache: StepCache, steps: int, rows: int = 2, begin: int = 0) -> list[Tensor]:
    """Inputs of 1 and a little more at each step: 1 % of change."""
    texts = torch.zeros(rows, 3, 4)
    return [
        cache(hidden_states=torch.full((1, 2, 4), 1.0 + 0.01 * step), encoder_hidden_states=texts)[0]
        for step in range(begin, begin + steps)
    ]


@pytest.mark.parametrize(("gain", "calls"), [(0.0, 12), (1.0, 4), (20.0, 12)])
def test_calls_are_left_out_as_long_as_the_output_would_hardly_differ(gain: float, calls: int) -> None:
    """At a gain of 1 and a bound of 3.5 % three steps pass after each call. Without any change, or before the
    second call, nothing is known."""
    cache = StepCache(inner := Gain(gain), 0.035)
    drifting(cache, 12)
    assert inner.calls == calls
    assert cache.memory.left_out == 12 - calls


def test_what_stands_is_the_last_output() -> None:
    cache = StepCache(Gain(1.0), 0.035)
    outputs = drifting(cache, 5)
    torch.testing.assert_close(outputs[2], outputs[1])
    torch.testing.assert_close(outputs[4], outputs[1])
    assert not torch.equal(outputs[1], outputs[0])


def test_a_call_with_other_rows_is_always_made() -> None:
    cache = StepCache(inner := Gain(1.0), 0.5)
    drifting(cache, 4)
    made = inner.calls
    (output,) = drifting(cache, 1, rows=1, begin=4)
    assert (inner.calls, len(output)) == (made + 1, 1)


@pytest.mark.parametrize("remote", [False, True])
def test_the_loop_makes_fewer_calls_and_other_latents_near_by(model_dir: Path, remote: bool) -> None:
    rng = np.random.default_rng(3)
    names = ("prompt", "negative_prompt")
    conditioning: dict[str, Any] = {
        f"{name}_embeds": rng.normal(size=(1, 5, TEXT_CHANNELS)).astype(np.float32) for name in names
    } | {f"{name}_attention_mask": np.ones((1, 5), np.int64) for name in names}
    elsewhere, steps = Elsewhere(model_dir), list[Step]()

    def latents(threshold: float) -> np.ndarray:
        transformers = load_remote_transformers(model_dir, "diorama", elsewhere) if remote else {}
        made: np.ndarray = load_denoise(model_dir, "diorama", transformers, threshold)(
            conditioning,
            width=32,
            height=32,
            num_frames=9,
            fps=12.0,
            num_inference_steps=20,
            guidance_scale=3.0,
            seed=1,
            preview_every_steps=0,
            on_step=steps.append,
        )["latents"]
        return made

    whole = latents(0.0)
    calls_of_all = len(elsewhere.asked)
    cached = latents(0.8)
    assert 0 < np.abs(cached - whole).mean() < 0.5 * whole.std()
    hits = [sum(step.cached for step in run) for run in (steps[:20], steps[20:])]
    assert hits[0] == 0 < hits[1]
    if remote:
        assert calls_of_all == 20
        assert len(elsewhere.asked) - calls_of_all == 20 - hits[1]
    np.testing.assert_array_equal(latents(0.8), cached)
