"""A loop that goes on from any step of an earlier one ends with the same bits, whatever its scheduler remembers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from numpy.typing import NDArray
from safetensors.numpy import load

from libs.artifacts import to_safetensors
from libs.families import LoopState, Step, load_denoise, load_encode, steps_done
from tests.support.tiny_diorama import write_tiny_diorama
from tests.support.tiny_families import TINY, write_tiny

STEPS = 4
CASES = ["diorama", *TINY]
SCHEDULERS = {
    "UniPC": UniPCMultistepScheduler(
        solver_order=3, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "DPM++": DPMSolverMultistepScheduler(
        solver_order=3, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
}
"""With memory of earlier steps."""


def written(models: Path, name: str) -> tuple[Path, str]:
    model_dir = write_tiny_diorama(models) if name == "diorama" else write_tiny(models, name)
    return model_dir, json.loads((model_dir / "soundstage.json").read_text())["family"]


def arguments_of(model_dir: Path) -> dict[str, Any]:
    card = json.loads((model_dir / "soundstage.json").read_text())
    defaults = card["defaults"]
    size = {"width": defaults["width"], "height": defaults["height"]}
    return {**size, "num_frames": 9, "fps": defaults["fps"], "num_inference_steps": STEPS, "seed": 5}


def run(
    denoise: Any, conditioning: Any, on_step: Any, arguments: dict[str, Any], resume: LoopState | None = None
) -> Any:
    return denoise(conditioning, guidance_scale=3.0, preview_every_steps=0, on_step=on_step, resume=resume, **arguments)


def check_every_step(
    denoise: Any, model_dir: Path, family: str, image: NDArray[np.uint8] | None, steps: int = STEPS
) -> LoopState:
    """Returns the last state."""
    arguments = arguments_of(model_dir) | {"num_inference_steps": steps}
    conditioning = load_encode(model_dir, family)(
        "a red ball rolls", "blur", image, arguments["width"], arguments["height"], arguments["num_frames"]
    )
    states: list[LoopState] = []
    run = partial(denoise, conditioning, guidance_scale=3.0, preview_every_steps=0, **arguments)
    whole = run(on_step=lambda step: states.append(load(to_safetensors(step.state()))))
    assert [steps_done(state) for state in states] == list(range(1, steps + 1))
    for done, state in enumerate(states, 1):
        seen: list[Step] = []
        resumed = run(on_step=seen.append, resume=state)
        assert [step.index for step in seen] == list(range(done + 1, steps + 1))
        assert resumed.keys() == whole.keys()
        for name in whole:
            np.testing.assert_array_equal(resumed[name], whole[name], err_msg=f"{name}, from step {done}")
    return states[-1]


@pytest.mark.parametrize("name", CASES)
def test_every_family_goes_on_from_every_step(tmp_path: Path, name: str) -> None:
    model_dir, family = written(tmp_path, name)
    size = arguments_of(model_dir)
    noise = np.random.default_rng(0).integers(0, 255, (size["height"], size["width"], 3), dtype=np.uint8)
    card = json.loads((model_dir / "soundstage.json").read_text())
    denoise = load_denoise(model_dir, family)
    if not card.get("image_required"):
        check_every_step(denoise, model_dir, family, None)
    if card["image_to_video"]:
        check_every_step(denoise, model_dir, family, noise)


@pytest.mark.parametrize("name", ["diorama", "wan22-t2v", "ltx2"])
def test_what_the_cache_remembers_goes_along(tmp_path: Path, name: str) -> None:
    """A threshold at which calls are left out; which ones must not depend on where the loop began."""
    model_dir, family = written(tmp_path, name)
    denoise = load_denoise(model_dir, family, cache_threshold=0.5)
    last = check_every_step(denoise, model_dir, family, None, steps=10)
    assert sum(int(array[0]) for name, array in last.items() if name.endswith("left_out/int")) > 0


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers_with_a_history_go_on(tmp_path: Path, scheduler: Any) -> None:
    model_dir, family = written(tmp_path, "wan22-t2v")
    denoise = load_denoise(model_dir, family)
    denoise._components["scheduler"] = scheduler
    check_every_step(denoise, model_dir, family, None)
