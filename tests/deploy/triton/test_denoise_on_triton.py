"""The denoise loop with its transformer on real tritonservers: the latents are those of the loop in one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deploy.triton.build_python import PythonOptions, build_python
from deploy.triton.server import Tritonserver, running_tritonserver
from deploy.triton.wheel import SUPPORTED
from libs.families import Step, load_denoise, load_remote_transformers
from libs.triton import Call, calling
from tests.libs.triton.test_client import client
from tests.support.light_triton import metric
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(not SUPPORTED, reason="tritonserver's wheel is for x86-64 Linux"),
    pytest.mark.timeout(900),  # each server imports torch, which takes minutes on a machine that is busy otherwise
]

MODEL = Path(__file__).parents[3] / "models" / "diorama"
NETWORKS = ("transformer", "transformer_2")
SIZE, FRAMES, STEPS = 64, 13, 4


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Tritonserver]]:
    """Two servers with the committed model's transformers, one thread each."""
    folder = tmp_path_factory.mktemp("triton")
    build_python(MODEL, folder / "repository", PythonOptions(threads=1), networks=NETWORKS)
    with (
        running_tritonserver(folder / "repository", folder, grace_seconds=0) as one,
        running_tritonserver(folder / "repository", folder, grace_seconds=0) as two,
    ):
        yield [one, two]


@pytest.fixture(scope="module")
def conditioning() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(3)
    names = ("prompt", "negative_prompt")
    embeds = {f"{name}_embeds": rng.normal(size=(1, 9, 384)).astype(np.float32) for name in names}
    masks = {f"{name}_attention_mask": np.ones((1, 9), np.int64) for name in names}
    masks["negative_prompt_attention_mask"][:, 4:] = 0
    return embeds | masks


@pytest.fixture(scope="module")
def expected(conditioning: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """By the loop in this process, with as many threads as the servers have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(load_denoise(MODEL, "diorama"), conditioning)
    finally:
        torch.set_num_threads(threads)


def run(
    denoise: Any, conditioning: dict[str, NDArray[Any]], on_step: Callable[[Step], None] = lambda _: None
) -> NDArray[np.float32]:
    latents: NDArray[np.float32] = denoise(
        conditioning,
        width=SIZE,
        height=SIZE,
        num_frames=FRAMES,
        fps=12.0,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        seed=5,
        preview_every_steps=0,
        on_step=on_step,
    )["latents"]
    return latents


def calls(pod: Tritonserver) -> float:
    return sum(metric(pod, "nv_inference_request_success", model=f"diorama_{name}") for name in NETWORKS)


@pytest.mark.parametrize("shared_memory", [True, False])
def test_latents_equal_those_of_one_process(
    pods: list[Tritonserver], conditioning: Any, expected: NDArray[np.float32], shared_memory: bool
) -> None:
    before = [calls(pod) for pod in pods]
    with client(*(pod.address for pod in pods), shared_memory=shared_memory) as triton:
        denoise = load_denoise(MODEL, "diorama", load_remote_transformers(MODEL, "diorama", triton.infer))
        np.testing.assert_array_equal(run(denoise, conditioning), expected)
    wait_until(lambda: [calls(pod) for pod in pods] == [count + STEPS / 2 for count in before])


def test_a_cancelled_video_takes_no_further_step(pods: list[Tritonserver], conditioning: Any) -> None:
    class StoppedError(Exception):
        pass

    stopped = threading.Event()

    def look() -> None:
        if stopped.is_set():
            raise StoppedError

    steps: list[int] = []

    def on_step(step: Step) -> None:
        steps.append(step.index)
        stopped.set()
        look()

    with client(pods[0].address) as triton, calling(Call(look)):
        denoise = load_denoise(MODEL, "diorama", load_remote_transformers(MODEL, "diorama", triton.infer))
        with pytest.raises(StoppedError):
            run(denoise, conditioning, on_step)
    assert steps == [1]


def test_a_pod_killed_in_the_middle_changes_no_bit(
    pods: list[Tritonserver], conditioning: Any, expected: NDArray[np.float32]
) -> None:
    """Last in this file: it takes one of the pods away."""

    def kill_one(step: Step) -> None:
        if step.index == 2:
            pods[0].kill()

    with client(*(pod.address for pod in pods)) as triton:
        denoise = load_denoise(MODEL, "diorama", load_remote_transformers(MODEL, "diorama", triton.infer))
        np.testing.assert_array_equal(run(denoise, conditioning, kill_one), expected)
