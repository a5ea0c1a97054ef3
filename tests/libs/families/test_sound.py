"""The vocoder keeps level, spectrum and timing; the model's sound has the asked length, part and side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from libs.families.diorama.sound import (
    DioramaSound,
    floor_of,
    load_model,
    predict,
    resample,
    select,
    shrink,
    synthesize,
)
from libs.families.diorama.vocoder import BANDS, FLOOR_DB, HOP, SAMPLE_RATE, analyse, centres, limit, synthesise
from training.scenes import render
from training.scenes.base import SceneSpec

MODEL = Path("models/diorama/sound")
TEXT = np.zeros(384, np.float32)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other are slow on a busy machine, and these networks are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def untrained() -> DioramaSound:
    torch.manual_seed(0)
    return DioramaSound(width=32, fine_width=16, pixel_width=8).eval()


@pytest.fixture(scope="module")
def trained() -> DioramaSound:
    return load_model(MODEL)


def rms_db(sound: np.ndarray) -> np.ndarray:
    return 10 * np.log10((sound**2).mean(axis=-1) + 1e-12)


def band_power(envelope: np.ndarray) -> np.ndarray:
    return 10 * np.log10((10 ** (envelope.astype(np.float64) / 10)).mean(axis=-1))


def fire(side: str, num_frames: int = 36) -> np.ndarray:
    spec = SceneSpec("fire", time_of_day="night", side=side, seed=11)  # type: ignore[arg-type]
    return (render(spec, num_frames, 12, 128).frames * 255).round().astype(np.uint8)


def test_band_levels_add_up_to_the_level_of_the_sound() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, 24 * 4000))
    total = 10 ** (analyse(noise, 24).astype(np.float64) / 10)
    share_below_22_khz = 22 / 24
    assert total.sum(axis=1).mean() == pytest.approx(0.01 * share_below_22_khz, rel=0.02)


@pytest.mark.parametrize("family", ["fire", "sea", "rain", "fireworks"])
def test_round_trip_keeps_band_levels(family: str) -> None:
    sound = render(SceneSpec(family, time_of_day="night", seed=3), 36, 12, 32).sound
    before = analyse(sound, 36)
    after = analyse(synthesise(before, 1, sound.shape[-1]), 36)
    audible = band_power(before) > band_power(before).max() - 30
    assert np.abs(band_power(after) - band_power(before))[audible].mean() < 1.0
    assert np.abs(np.diff(rms_db(sound)) - 10 * np.log10(np.divide(*(10 ** (band_power(after) / 10)).sum(1)[::-1]))) < 1


@pytest.mark.parametrize("start", [40_000, 40_125, 41_111])
def test_round_trip_keeps_an_onset_within_one_hop(start: int) -> None:
    click = np.zeros((2, 24 * 4000))
    click[:, start : start + 2400] = 0.3 * np.random.default_rng(1).standard_normal((2, 2400))
    sound = synthesise(analyse(click, 24), 5, click.shape[-1])
    power = (sound**2).sum(axis=0)
    begin = int(np.searchsorted(power.cumsum(), 0.03 * power.sum()))
    assert abs(begin - start) <= HOP
    assert power[: start - 4 * HOP].sum() < 0.003 * power.sum()


def test_bands_are_where_their_names_say() -> None:
    time = np.arange(24 * 4000) / SAMPLE_RATE
    for index in (5, 30, 60):
        tone = np.sin(2 * np.pi * centres()[index] * time) * np.ones((2, 1))
        assert band_power(analyse(tone, 24))[0].argmax() == index


def test_noise_is_neither_mono_nor_hollow() -> None:
    left, right = synthesise(np.full((2, BANDS, 320), -50.0), 3, 80_000)
    assert 0.2 < np.corrcoef(left, right)[0, 1] < 0.9


def test_the_seed_decides_the_noise() -> None:
    envelope = np.full((2, BANDS, 64), -50.0)
    assert np.array_equal(synthesise(envelope, 4, 16_000), synthesise(envelope, 4, 16_000))
    assert not np.array_equal(synthesise(envelope, 4, 16_000), synthesise(envelope, 5, 16_000))


def test_floor_is_exact_silence_and_peaks_are_limited() -> None:
    assert not synthesise(np.full((2, BANDS, 64), FLOOR_DB), 4, 16_000).any()
    loud = synthesise(np.full((2, BANDS, 64), -10.0), 4, 16_000)
    assert np.abs(loud).max() <= 0.95
    assert limit(np.array([0.3, -0.4])) == pytest.approx([0.3, -0.4])


def test_a_wrong_envelope_is_refused() -> None:
    with pytest.raises(ValueError, match=r"give \(2, 64, columns\)"):
        synthesise(np.zeros((1, BANDS, 64)), 0, 100)
    with pytest.raises(ValueError, match="columns last"):
        synthesise(np.zeros((2, BANDS, 64)), 0, 64 * HOP + 1)


@pytest.mark.parametrize(
    ("count", "fps"), [(60, 12), (61, 12), (1, 12), (25, 24), (50, 25), (31, 30), (9, 8), (48, 23.976)]
)
def test_sound_is_as_long_as_the_picture(untrained: DioramaSound, count: int, fps: float) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (count, 48, 80, 3), dtype=np.uint8)
    sound = synthesize(untrained, frames, fps, TEXT, "full", 1)
    assert sound.shape == (2, round(count / fps * 48_000))
    assert sound.dtype == np.float32


def test_frames_are_resampled_to_twelve_a_second() -> None:
    frames = np.arange(24, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert resample(frames, 24)[:, 0, 0, 0].tolist() == list(range(0, 24, 2))
    assert resample(frames[:6], 6)[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_shrinking_averages_areas() -> None:
    frame = np.zeros((1, 128, 128, 3), np.uint8)
    frame[0, ::2] = 200
    assert shrink(frame).numpy() == pytest.approx(np.full((1, 3, 64, 64), 100 / 255), abs=1e-6)


def test_same_inputs_same_samples(untrained: DioramaSound) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), dtype=np.uint8)
    first, again, other = (synthesize(untrained, frames, 12, TEXT, "full", seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_silent_is_zeros_and_unknown_intents_are_refused(untrained: DioramaSound) -> None:
    frames = np.zeros((12, 64, 64, 3), np.uint8)
    assert not synthesize(untrained, frames, 12, TEXT, "silent", 7).any()
    with pytest.raises(ValueError, match="use one of full, ambience, effects, silent"):
        synthesize(untrained, frames, 12, TEXT, "loud", 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fps > 0"):
        synthesize(untrained, frames, 0, TEXT, "full", 7)


def test_ambience_is_what_lasts_and_effects_are_what_rises_above_it() -> None:
    envelope = np.full((2, BANDS, 400), -60.0)
    envelope[:, :, 200:220] = -30.0
    ambience, effects = select(envelope, "ambience"), select(envelope, "effects")
    assert ambience == pytest.approx(np.full_like(envelope, -60.0))
    assert effects[:, :, 200:220] == pytest.approx(-30.0, abs=0.01)
    assert (effects[:, :, :200] == FLOOR_DB).all()
    assert 10 ** (ambience / 10) + 10 ** (effects / 10) == pytest.approx(10 ** (envelope / 10), abs=1e-8)


def test_a_slow_swell_is_ambience() -> None:
    swell = -50 + 10 * np.sin(np.linspace(0, 2 * np.pi, 800))[None, None] * np.ones((2, BANDS, 1))
    assert np.abs(floor_of(swell) - swell)[..., 80:-80].max() < 3.0


@pytest.mark.parametrize(("side", "louder"), [("left", 0), ("right", 1)])
def test_a_fire_is_louder_on_its_side(trained: DioramaSound, side: str, louder: int) -> None:
    frames = fire(side)
    level = rms_db(synthesize(trained, frames, 12, TEXT, "full", 3))
    assert level[louder] - level[1 - louder] > 2.0
    assert level.max() > -40


def test_mirrored_frames_swap_the_channels(trained: DioramaSound) -> None:
    frames = fire("left")
    straight, mirrored = predict(trained, frames, 12, TEXT), predict(trained, frames[:, :, ::-1].copy(), 12, TEXT)
    assert np.abs(band_power(straight) - band_power(mirrored)[::-1]).mean() < 3.0


def test_effects_and_ambience_of_a_fire_are_both_quieter_than_all(trained: DioramaSound) -> None:
    frames = fire("centre")
    full, ambience, effects = (
        rms_db(synthesize(trained, frames, 12, TEXT, intent, 3)).mean() for intent in ("full", "ambience", "effects")
    )
    assert FLOOR_DB < ambience < full
    assert FLOOR_DB < effects < full
