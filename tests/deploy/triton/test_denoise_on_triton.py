"""The denoise loop with its transformer on real tritonservers: the latents are those of the loop in one process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig

from deploy.triton.build_python import PythonOptions, build_python
from deploy.triton.server import Tritonserver, running_tritonserver
from deploy.triton.wheel import SUPPORTED
from libs.errors import FailedPrecondition
from libs.families import Step, load_denoise, load_remote_transformers
from libs.families.diorama.components import load_transformer
from libs.families.pipelines import DenoisePipeline
from libs.families.remote import RemoteTransformer
from libs.families.served import ServedNetwork
from libs.triton import Call, Triton, calling
from tests.libs.families.test_served_loras import Calls, sample
from tests.libs.triton.test_client import client
from tests.support.light_triton import metric
from tests.support.loras import factors, lora_file
from tests.support.precision import bfloat16_is_fast
from tests.support.tiny_diorama import write_tiny_diorama
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(not SUPPORTED, reason="tritonserver's wheel is for x86-64 Linux"),
    pytest.mark.timeout(900),  # each server imports torch, which takes minutes on a machine that is busy otherwise
]

MODEL = Path(__file__).parents[3] / "models" / "diorama"
NETWORKS = ("transformer", "transformer_2")
SIZE, FRAMES, STEPS = 64, 13, 4
LAYERS = ("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.ff.conv_inverted")
GATHERED_ROWS, GATHERING_SECONDS = 4, 50


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diorama(tmp_path_factory.mktemp("models"), "tiny")


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[list[Tritonserver]]:
    """Two servers with the committed model's transformers, one thread each; the first has `gathering`'s, too."""
    folder = tmp_path_factory.mktemp("triton")
    for name in ("one", "two"):
        build_python(MODEL, folder / name, PythonOptions(threads=1), networks=NETWORKS)
    write_gathering(tiny, folder / "one")
    with (
        running_tritonserver(folder / "one", folder, grace_seconds=0) as one,
        running_tritonserver(folder / "two", folder, grace_seconds=0) as two,
    ):
        yield [one, two]


def write_gathering(model: Path, repository: Path) -> None:
    """A transformer that waits until two calls of two rows are there, and gets them together. One row runs at once."""
    options = PythonOptions(threads=1, merge=True)
    (folder,) = build_python(model, repository, options, networks=("transformer",))
    config: Any = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    config.dynamic_batching.preferred_batch_size[:] = [1, GATHERED_ROWS]
    config.dynamic_batching.max_queue_delay_microseconds = GATHERING_SECONDS * 1_000_000
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))


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
    """By the loop in this process."""
    with as_on_the_servers():
        return run(load_denoise(MODEL, "diorama"), conditioning)


@contextmanager
def as_on_the_servers() -> Iterator[None]:
    """In one thread, and in float32 on every processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with bfloat16_is_fast(False):
            yield
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
        np.testing.assert_array_equal(run(remote(triton), conditioning), expected)
    wait_until(lambda: [calls(pod) for pod in pods] == [count + STEPS / 2 for count in before])


@dataclass
class Lora:
    """A file, how often pods were told it, and the latents that the loop in this process makes with it."""

    data: bytes
    scale: float
    expected: NDArray[np.float32]
    told: list[int] = field(default_factory=list)

    def on(self, triton: Triton) -> DenoisePipeline:
        def read() -> bytes:
            self.told.append(1)
            return self.data

        return remote(triton).naming_lora(hashlib.sha256(self.data).hexdigest(), self.scale, len(self.data), read)


def remote(triton: Triton) -> DenoisePipeline:
    return load_denoise(MODEL, "diorama", load_remote_transformers(MODEL, "diorama", triton.infer))


Make = Callable[[int, float], Lora]


@pytest.fixture(scope="module")
def make(conditioning: Any) -> Make:
    """A LoRA by seed and scale: pods do not know it yet."""
    base = load_denoise(MODEL, "diorama")

    def made(seed: int, scale: float) -> Lora:
        layers = {name: factors(load_transformer(MODEL, name), *LAYERS, seed=seed) for name in NETWORKS}
        data = lora_file(layers)
        with as_on_the_servers():
            return Lora(data, scale, run(base.with_lora(data, scale), conditioning))

    return made


@pytest.mark.parametrize("shared_memory", [True, False])
def test_with_a_lora_too_and_each_network_of_a_pod_is_told_it_once(
    pods: list[Tritonserver], conditioning: Any, expected: NDArray[np.float32], make: Make, shared_memory: bool
) -> None:
    lora = make(1 + shared_memory, 0.7)
    assert np.abs(lora.expected - expected).max() > 1e-2
    with client(pods[0].address, shared_memory=shared_memory, attempts=1) as triton:
        for _ in range(2):
            np.testing.assert_array_equal(run(lora.on(triton), conditioning), lora.expected)
            np.testing.assert_array_equal(run(remote(triton), conditioning), expected)
    assert len(lora.told) == len(NETWORKS)


def test_videos_at_once_each_with_its_own_lora_or_none(
    pods: list[Tritonserver], conditioning: Any, expected: NDArray[np.float32], make: Make
) -> None:
    loras = [make(3, 1.0), make(4, 0.5)]
    with client(*(pod.address for pod in pods)) as triton, ThreadPoolExecutor() as threads:
        videos = [remote(triton), *(lora.on(triton) for lora in loras)]
        made = list(threads.map(lambda denoise: run(denoise, conditioning), videos))
    for latents, right in zip(made, [expected, *(lora.expected for lora in loras)], strict=True):
        np.testing.assert_array_equal(latents, right)


def test_calls_with_other_loras_that_triton_hands_over_together_are_told_apart(
    pods: list[Tritonserver], tiny: Path
) -> None:
    calls, executions = Calls(tiny), lambda: metric(pods[0], "nv_inference_exec_count", model="tiny_transformer")
    loras = [calls.lora(seed) for seed in (1, 2)]
    inputs = calls.plain(0)
    wait_until(executions)  # the probe's
    before = executions()
    with client(pods[0].address, shared_memory=False) as triton, ThreadPoolExecutor() as threads, as_on_the_servers():
        transformer = RemoteTransformer(tiny, "diorama", "transformer", triton.infer)
        made = list(threads.map(lambda lora: transformer.with_lora(lora).remote(inputs), loras))
        network = ServedNetwork(tiny, "diorama", "transformer")
        for lora, answer in zip(loras, made, strict=True):
            right = network(calls.named(0, lora))
            torch.testing.assert_close(sample(answer), sample(right), rtol=0, atol=0)
    wait_until(lambda: executions() >= before + 2)
    assert executions() == before + 2, "both ask for the file in one, and get their answers in the other"


def test_a_lora_that_does_not_fit_is_refused_as_in_one_process(
    pods: list[Tritonserver], conditioning: Any, make: Make
) -> None:
    other = lora_file({"transformer": {"proj_in": (torch.ones(2, 3), torch.ones(3, 2))}})
    for data, reason in ((other, "LORA_UNFITTING"), (b"pickled", "LORA_UNUSABLE")):
        with pytest.raises(FailedPrecondition) as here:
            load_denoise(MODEL, "diorama").with_lora(data, 1.0)
        lora = Lora(data, 1.0, np.zeros(0, np.float32))
        with client(pods[0].address) as triton, pytest.raises(FailedPrecondition) as there:
            run(lora.on(triton), conditioning)
        assert (str(there.value), there.value.reason, there.value.metadata) == (
            str(here.value),
            reason,
            here.value.metadata,
        )
        assert len(lora.told) == 1, "not tried again"


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

    with client(pods[0].address) as triton, calling(Call(look)), pytest.raises(StoppedError):
        run(remote(triton), conditioning, on_step)
    assert steps == [1]


def test_a_pod_killed_in_the_middle_changes_no_bit(
    pods: list[Tritonserver], conditioning: Any, expected: NDArray[np.float32], make: Make
) -> None:
    """Last in this file: it takes one of the pods away, the only one that knows the LoRA of one of the two videos."""
    lora = make(5, 0.7)
    with client(pods[0].address) as triton:
        run(lora.on(triton), conditioning)
    killed, told = threading.Barrier(2, pods[0].kill), len(lora.told)

    def kill_one(step: Step) -> None:
        if step.index == 2:
            killed.wait(600)

    with client(*(pod.address for pod in pods)) as triton, ThreadPoolExecutor() as threads:
        videos = [remote(triton), lora.on(triton)]
        made = list(threads.map(lambda denoise: run(denoise, conditioning, kill_one), videos))
    np.testing.assert_array_equal(made[0], expected)
    np.testing.assert_array_equal(made[1], lora.expected)
    assert len(lora.told) > told
