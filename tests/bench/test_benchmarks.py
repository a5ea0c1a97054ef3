"""The parts of the benchmarks that need no long work: figures made of what is seen, and like timed with like."""

import os
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaVideoTransformer3DModel
from soundstage.video.v1 import video_pb2 as pb

from bench.__main__ import BENCHMARKS
from bench.denoise import BareLoop, _differences, _figures, _pipeline
from bench.stack import _environment, peak_memory_mib
from bench.stages import _stage_figures
from libs.families.diorama.positions import POSITION_CHANNELS
from training.transformer import CHANNELS

MODEL = Path(__file__).parents[2] / "models" / "diorama"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_can_be_run_by_name(name: str) -> None:
    assert callable(import_module(BENCHMARKS[name]).run)


# --- denoise ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Diorama's autoencoder with a transformer of one narrow layer."""
    folder = tmp_path_factory.mktemp("models") / "diorama"
    folder.mkdir()
    (folder / "vae").symlink_to(MODEL / "vae")
    torch.manual_seed(0)
    for name, patch in (("transformer", 2), ("transformer_2", 1)):
        SanaVideoTransformer3DModel(
            in_channels=2 * CHANNELS + 1 + POSITION_CHANNELS,
            out_channels=CHANNELS,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=384,
            patch_size=(1, patch, patch),
            rope_max_seq_len=64,
        ).save_pretrained(folder / name)
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="module")
def conditioning() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    embeds = {name: rng.normal(size=(1, 5, 384)).astype(np.float32) for name in ("prompt", "negative_prompt")}
    masks = {f"{name}_attention_mask": np.ones((1, 5), np.int64) for name in embeds}
    return {**{f"{name}_embeds": values for name, values in embeds.items()}, **masks}


@pytest.mark.usefixtures("in_float32")
def test_the_bare_loop_makes_the_latents_of_our_stage(small_model: Path, conditioning: dict[str, np.ndarray]) -> None:
    bare = BareLoop(small_model, conditioning, steps=2, seed=5)
    pipeline = _pipeline(small_model, bare, conditioning, 2, 5)
    found = _differences({"bare": bare.batched, "bare_two_calls": bare.two_calls, "pipeline": pipeline})
    assert max(found.values()) < 1e-3


def test_contenders_that_do_other_work_are_not_timed(small_model: Path, conditioning: dict[str, np.ndarray]) -> None:
    bare = BareLoop(small_model, conditioning, steps=2, seed=5)
    other = BareLoop(small_model, conditioning, steps=2, seed=6)
    with pytest.raises(RuntimeError, match="different latents"):
        _differences({"bare": bare.batched, "other": other.batched})


def test_ratios_are_medians_of_the_rounds() -> None:
    seconds = {
        "bare": [2.0, 4.0, 2.0],
        "bare_two_calls": [4.0, 4.0, 4.0],
        "pipeline": [2.2, 4.0, 20.0],
        "service": [2.4, 4.4, 2.4],
    }
    figures = {figure.name: figure.value for figure in _figures(seconds, steps=2)}
    assert figures["pipeline_over_bare"] == pytest.approx(1.1)
    assert figures["service_over_bare"] == pytest.approx(1.2)
    assert figures["batched_guidance_over_two_calls"] == pytest.approx(0.5)
    assert figures["bare.step"] == pytest.approx(1.0)


# --- stages ----------------------------------------------------------------------------------------------------------


def test_work_and_loading_are_told_apart() -> None:
    video = pb.Video()
    for stage, seconds, loading in ((pb.STAGE_ENCODE, 3.0, 2.0), (pb.STAGE_DENOISE, 30.0, 5.0)):
        timing = video.stage_timings.add(stage=stage)
        timing.duration.FromTimedelta(timedelta(seconds=seconds))
        timing.load_duration.FromTimedelta(timedelta(seconds=loading))
    asked = datetime(2026, 1, 1, tzinfo=UTC)
    video.create_time.FromDatetime(asked)
    video.end_time.FromDatetime(asked + timedelta(seconds=34))
    figures = {figure.name: figure.value for figure in _stage_figures(video)}
    assert figures["denoise.work"] == pytest.approx(25.0)
    assert figures["encode.load"] == pytest.approx(2.0)
    assert figures["all_stages.work"] == pytest.approx(26.0)
    assert figures["all_stages.load"] == pytest.approx(7.0)
    assert figures["asked_to_ready"] == pytest.approx(34.0)


def test_peak_memory_is_of_a_process_that_lives() -> None:
    assert peak_memory_mib(os.getpid()) > 10
    assert peak_memory_mib(2**22 + 1) == 0.0


def test_settings_of_a_stack_are_gone_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_BENCH_A", "before")
    with _environment({"SOUNDSTAGE_BENCH_A": "1", "SOUNDSTAGE_BENCH_B": "2"}):
        assert os.environ["SOUNDSTAGE_BENCH_A"] == "1"
        assert os.environ["SOUNDSTAGE_BENCH_B"] == "2"
    assert os.environ["SOUNDSTAGE_BENCH_A"] == "before"
    assert "SOUNDSTAGE_BENCH_B" not in os.environ
