"""The denoiser on real tritonservers: videos whose steps are merged, and one whose only pod is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from tritonclient.grpc import InferenceServerClient

from deploy.triton.build_python import PythonOptions, build_python
from deploy.triton.latents import main
from deploy.triton.server import Tritonserver, running_tritonserver
from deploy.triton.wheel import SUPPORTED
from libs.artifacts import AttemptPrefix, MemoryStore, get_tensors, put_tensors
from libs.catalog import Catalog
from libs.errors import Unavailable
from libs.families import PipelineCache
from libs.serving import RecordingStage
from services.denoiser.denoise import DenoiseJob, Denoiser, StepDone
from services.denoiser.metrics import DenoiserMetrics
from services.denoiser.settings import DenoiserSettings
from services.denoiser.triton import opened_loader
from tests.support.denoising import small_job, wired_denoiser
from tests.support.tiny_diorama import TEXT_CHANNELS, write_tiny_diorama

pytestmark = [
    pytest.mark.skipif(not SUPPORTED, reason="tritonserver's wheel is for x86-64 Linux"),
    pytest.mark.timeout(900),  # each server imports torch, which takes minutes on a machine that is busy otherwise
]

NETWORKS = ("transformer", "transformer_2")
STEPS, KILLED_AFTER = 8, 4
MERGED = 1e-5
"""What company may change in latents up to about 4: the order of additions within a product."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diorama(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def repository(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    build_python(model, folder, PythonOptions(threads=1, merge=True), networks=NETWORKS)
    return folder


@pytest.fixture(scope="module")
def pod(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritonserver]:
    with running_tritonserver(repository, tmp_path_factory.mktemp("pod"), grace_seconds=0) as server:
        yield server


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("videos")


@pytest.fixture
def job(store: MemoryStore) -> DenoiseJob:
    rng, names = np.random.default_rng(3), ("prompt", "negative_prompt")
    embeds = {f"{name}_embeds": rng.normal(size=(1, 9, TEXT_CHANNELS)).astype(np.float32) for name in names}
    masks = {f"{name}_attention_mask": np.ones((1, 9), np.int64) for name in names}
    conditioning = put_tensors(store, "acme/v1/encode/a1/conditioning.safetensors", embeds | masks)
    return small_job(conditioning, STEPS)


@asynccontextmanager
async def denoiser(model: Path, store: MemoryStore, pod: Tritonserver) -> AsyncIterator[Denoiser]:
    catalog = Catalog.read(model.parent)
    settings = DenoiserSettings(
        triton_addresses={"*": (pod.address,)},
        triton_attempts=2,
        steps_at_once=4,
        checkpoint_every_steps=1,
        checkpoint_most_share=1.0,
    )
    async with opened_loader(settings, catalog) as load:
        yield wired_denoiser(store, catalog, PipelineCache(load), DenoiserMetrics(CollectorRegistry()), settings)


def of_video(job: DenoiseJob, video: str, attempt: str = "a1", *, seed: int = 1, num_frames: int = 12) -> DenoiseJob:
    return replace(job, prefix=AttemptPrefix("acme", video, "denoise", attempt), seed=seed, num_frames=num_frames)


async def latents(denoiser: Denoiser, store: MemoryStore, job: DenoiseJob) -> NDArray[np.float32]:
    done = await asyncio.to_thread(denoiser.denoise, job, RecordingStage())
    made: NDArray[np.float32] = get_tensors(store, done.latents)["latents"]
    return made


def executions_saved(pod: Tritonserver) -> int:
    """Requests that were run in another one's batch."""
    with InferenceServerClient(pod.address) as client:
        answers = [client.get_inference_statistics(f"diorama_{name}", client_timeout=60) for name in NETWORKS]
    stats = [answer.model_stats[0] for answer in answers]
    return sum(one.inference_stats.success.count - one.execution_count for one in stats)


async def test_each_of_the_videos_whose_steps_are_merged_has_its_own_latents(
    model: Path, store: MemoryStore, job: DenoiseJob, pod: Tritonserver
) -> None:
    """Three that fit together, and a longer one that fits to none."""
    videos = [(seed, 24 if seed == 4 else 12) for seed in range(1, 5)]
    async with denoiser(model, store, pod) as one:
        alone = [await latents(one, store, of_video(job, f"v{s}", seed=s, num_frames=n)) for s, n in videos]
        before = executions_saved(pod)
        for turn in range(50):
            jobs = [of_video(job, f"v{s}", f"b{turn}", seed=s, num_frames=n) for s, n in videos]
            together = await asyncio.gather(*(latents(one, store, each) for each in jobs))
            for made, expected in zip(together, alone, strict=True):
                np.testing.assert_allclose(made, expected, rtol=0, atol=MERGED)
            if executions_saved(pod) > before:
                break
        assert executions_saved(pod) > before, "nothing was merged"
    assert np.abs(alone[0] - alone[1]).max() > 0.1


class Killing(RecordingStage):
    def __init__(self, pod: Tritonserver) -> None:
        super().__init__()
        self._pod = pod

    def emit(self, event: object) -> None:
        super().emit(event)
        if isinstance(event, StepDone) and event.step == KILLED_AFTER:
            self._pod.kill()


def begins_at(stage: RecordingStage) -> int:
    return next(event.step for event in stage.events if isinstance(event, StepDone))


async def test_a_video_whose_only_pod_was_killed_goes_on_from_its_checkpoint(
    model: Path, store: MemoryStore, job: DenoiseJob, pod: Tritonserver, repository: Path, tmp_path: Path
) -> None:
    with running_tritonserver(repository, tmp_path, grace_seconds=0) as doomed:
        async with denoiser(model, store, doomed) as first:
            with pytest.raises(Unavailable) as raised:
                await asyncio.to_thread(first.denoise, of_video(job, "v1"), Killing(doomed))
    assert raised.value.reason == "TRITON_UNAVAILABLE"
    stage = RecordingStage()
    async with denoiser(model, store, pod) as second:
        resumed = await asyncio.to_thread(second.denoise, of_video(job, "v1", "a2"), stage)
        whole = await asyncio.to_thread(second.denoise, of_video(job, "elsewhere"), RecordingStage())
    assert KILLED_AFTER >= begins_at(stage) >= KILLED_AFTER - 2, "a write may have been under way"
    assert resumed.latents.sha256 == whole.latents.sha256


def test_latents_of_servers_are_compared(model: Path, pod: Tritonserver, tmp_path: Path) -> None:
    """As the first run on a GPU does it (`docs/gpu-checklist.md`)."""

    def latents(out: str, *words: str) -> str:
        result = CliRunner().invoke(main, [pod.address, "--model", str(model), "--out", str(tmp_path / out), *words])
        assert result.exit_code == 0, result.output
        return result.output

    alone = latents("a")
    assert "(4 steps, first apart)" in alone
    again = latents("b", "--against", str(tmp_path / "a"))
    assert again.split(";")[0] == alone.split(";")[0]
    assert again.endswith(f"0 standard deviations from {tmp_path / 'a'} at most\n")
    in_company = latents("c", "--beside", "3", "--against", str(tmp_path / "a"))
    assert float(in_company.splitlines()[1].split()[0]) < MERGED
    assert float(latents("d", "--steps", "3", "--against", str(tmp_path / "a")).splitlines()[1].split()[0]) > 0.1
