"""Training of the video-to-audio model: batches are aligned, frames are softened, the loss falls, state is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from libs.families.diorama.sound import DioramaSound, load_model
from libs.families.diorama.vocoder import analyse
from training import sound as training
from training.scenes import FAMILIES, render
from training.scenes.base import SceneSpec

RNG_TEXT = np.random.default_rng(0).standard_normal((3, 384)).astype(np.float16)


def example(family: str, side: str) -> training.Example:
    spec = SceneSpec(family, time_of_day="night", side=side, seed=2)  # type: ignore[arg-type]
    clip = render(spec, 24, 12, 64)
    frames = (clip.frames * 255).astype(np.uint8)
    return training.Example(spec, frames, analyse(clip.sound, 24), RNG_TEXT, RNG_TEXT + 1)


@pytest.fixture(scope="module")
def examples() -> list[training.Example]:
    return [example("fire", "left"), example("night_sky", "centre")]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> DioramaSound:
    monkeypatch.setattr(training, "BATCH", 2)
    monkeypatch.setattr(training, "CROP_FRAMES", 12)
    torch.manual_seed(0)
    return DioramaSound(width=32, fine_width=16, pixel_width=8)


def test_batches_hold_frames_and_the_levels_that_belong_to_them(
    examples: list[training.Example], small: DioramaSound
) -> None:
    frames, text, levels = training.batch(examples, RNG_TEXT[0], np.random.default_rng(0))
    assert frames.shape == (2, 12, 3, 64, 64)
    assert text.shape == (2, 384)
    assert levels.shape == (2, 2, 64, 16 * 12)


def test_mirroring_swaps_channels_and_caption_sides(examples: list[training.Example]) -> None:
    fire, rng = examples[0], np.random.default_rng(1)
    seen = set()
    for _ in range(12):
        frames, text, levels = training._crop(fire, np.zeros(384), rng)
        left = frames[..., :32].mean() > frames[..., 32:].mean()
        assert (levels[0].mean() > levels[1].mean()) == left
        if text.any():
            assert bool((text - torch.from_numpy(RNG_TEXT.astype(np.float32))).abs().sum(1).min() < 1e-3) == bool(left)
        seen.add(bool(left))
    assert seen == {True, False}


def test_patches_come_back(examples: list[training.Example]) -> None:
    frames = torch.rand(2, 8, 3, 64, 64)
    assert torch.equal(training._unpatches(training._patches(frames), 8), frames)


def test_softened_frames_are_softer_but_the_same_scene(examples: list[training.Example]) -> None:
    frames = torch.rand(1, 12, 3, 64, 64).repeat(8, 1, 1, 1, 1)
    basis = torch.linalg.qr(torch.randn(192, 64)).Q.T
    soft = training.soften(frames, basis, np.random.default_rng(0))
    assert soft.shape == frames.shape
    assert soft.min() >= 0
    assert soft.max() <= 1
    assert (soft.std(dim=(1, 2, 3, 4)) < 0.95 * frames[0].std()).sum() >= 4
    assert (soft.mean(dim=(1, 2, 3, 4)) - 0.5).abs().max() < 0.25


def test_loss_is_nothing_for_the_target_itself_and_ignores_what_is_inaudible(examples: list[training.Example]) -> None:
    target = torch.from_numpy(examples[0].envelope.astype(np.float32))[None].clamp(min=training.QUIET_DB)
    assert all(float(part) < 1e-3 for part in training.loss_of(target, target).values())
    assert float(training.loss_of(target - 6, target)["columns"]) == pytest.approx(6, abs=0.01)
    swapped = training.loss_of(target.flip(1), target)
    assert float(swapped["balance"]) > 3
    quieter = torch.where(target <= training.QUIET_DB, target - 10, target)
    assert torch.equal(quieter.clamp(min=training.QUIET_DB), target)


def test_loss_falls_and_state_goes_on(examples: list[training.Example], small: DioramaSound, tmp_path: Path) -> None:
    trainer, rng = training.Trainer(small), np.random.default_rng(0)
    before = training.evaluate(small.eval(), examples)["bands"]
    small.train()
    for step in range(25):
        trainer.step(*training.batch(examples, RNG_TEXT[0], rng), progress=step / 40)
    assert training.evaluate(small.eval(), examples)["bands"] < 0.93 * before
    trainer.save(tmp_path / "state.pt")
    again = training.Trainer(DioramaSound(width=32, fine_width=16, pixel_width=8))
    again.load(tmp_path / "state.pt")
    assert again.steps == 25
    assert torch.equal(again.average.levels.weight, trainer.average.levels.weight)


def test_the_model_is_kept_in_half_precision_and_loads_as_it_was(small: DioramaSound, tmp_path: Path) -> None:
    small.half().save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.levels.in_channels == 16 + 64
    assert loaded.levels.weight.dtype == torch.float32
    assert torch.equal(loaded.levels.weight, small.levels.weight.float())


def test_a_clip_is_prepared_once(
    examples: list[training.Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PREPARED", tmp_path / "prepared")
    spec = {"family": "fire", "side": "left", "time_of_day": "night"}
    path = tmp_path / "00003.npz"
    sound = np.zeros((2, 24 * 4000), np.int16)
    np.savez(path, frames64=examples[0].frames, sound=sound, meta=np.array(json.dumps({"spec": spec})))
    asked: list[list[str]] = []

    def text(prompts: list[str]) -> np.ndarray:
        asked.append(prompts)
        return np.zeros((len(prompts), 384), np.float32)

    first, again = (training.prepare(path, text) for _ in range(2))  # type: ignore[arg-type]
    assert len(asked) == 1
    assert not any("right" in said for said in asked[0][:3])
    assert not any("left" in said for said in asked[0][3:])
    assert np.array_equal(first.envelope, again.envelope)


def test_every_family_is_held_out() -> None:
    held = {index % len(FAMILIES) for index in range(1000) if training.is_held_out(index)}
    assert held == set(range(len(FAMILIES)))
