"""A joint model's sound can be heard while it is made: a short WAV of what the steps predict."""

from __future__ import annotations

import io
import shutil
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from libs.artifacts import AttemptPrefix, MemoryStore, get_tensors, put_tensors
from libs.catalog import Catalog
from libs.families import JointSound, PipelineCache, load_denoise, load_encode, load_sound
from libs.serving import RecordingStage
from services.denoiser import sounds
from services.denoiser.denoise import DenoiseJob, Preview
from services.denoiser.metrics import DenoiserMetrics
from services.denoiser.settings import DenoiserSettings
from services.denoiser.sounds import MOST_BYTES, to_wav
from tests.support.denoising import wired_denoiser
from tests.support.tiny_families import write_tiny

FRAMES, FPS, STEPS = 9, 24, 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    write_tiny(models, "ltx2")
    return models


def denoised(models: Path, **changes: Any) -> tuple[MemoryStore, list[Preview], dict[str, np.ndarray]]:
    """What is in the store, the previews, the latents."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    store, settings, metrics = MemoryStore("sounds"), DenoiserSettings(), DenoiserMetrics(CollectorRegistry())
    conditioning = load_encode(models / "ltx2", "ltx2")("a red ball", "blur", None, 64, 64, FRAMES)
    fields: dict[str, Any] = {
        "prefix": AttemptPrefix("acme", "v1", "denoise", "a1"),
        "model": "ltx2",
        "conditioning": put_tensors(store, "acme/v1/encode/a1/conditioning.safetensors", conditioning),
        "width": 64,
        "height": 64,
        "num_frames": FRAMES,
        "fps": float(FPS),
        "num_inference_steps": STEPS,
        "guidance_scale": 3.0,
        "seed": 1,
        "preview_every_steps": 1,
        "priority": 2,
        "deadline": float("inf"),
    }
    denoiser = wired_denoiser(store, Catalog.read(models), PipelineCache(load_denoise), metrics, settings)
    stage = RecordingStage()
    made = denoiser.denoise(DenoiseJob(**fields | changes), stage)
    torch.set_num_threads(threads)
    return store, [event for event in stage.events if isinstance(event, Preview)], get_tensors(store, made.latents)


def test_every_second_preview_brings_the_sound_and_latents_stay_the_same(models: Path) -> None:
    store, previews, latents = denoised(models, preview_sound=True)
    heard = [preview for preview in previews if preview.sound is not None]
    assert [preview.step for preview in heard] == [1, 3]
    sounds = [store.get(preview.sound) for preview in heard if preview.sound]
    assert sounds[0] != sounds[1]
    for sound in sounds:
        with wave.open(io.BytesIO(sound)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
            assert file.getnframes() == round(FRAMES / FPS * 24_000)
            assert np.frombuffer(file.readframes(file.getnframes()), "<i2").std() > 0
    _, others, same = denoised(models)
    assert not any(preview.sound for preview in others)
    for name, tensor in latents.items():
        np.testing.assert_array_equal(tensor, same[name])


def test_the_sound_comes_near_the_one_that_is_made(models: Path) -> None:
    """Of five steps the fifth preview has a sound, and nothing is left to predict: it is the result's."""
    store, previews, latents = denoised(models, preview_sound=True, num_inference_steps=5)
    decoder = load_sound(models / "ltx2", "ltx2")
    assert isinstance(decoder, JointSound)
    made = to_wav(decoder.decode({"audio_latents": latents["audio_latents"]}, round(FRAMES / FPS * 48_000)))
    sounds = [store.get(preview.sound) for preview in previews if preview.sound]
    apart = [
        int(np.abs(np.frombuffer(made, "<i2", offset=44).astype(int) - np.frombuffer(sound, "<i2", offset=44)).max())
        for sound in sounds
    ]
    assert len(apart) == 3
    assert apart[-1] <= 2
    assert apart[0] > 2


def test_without_the_sound_decoder_a_video_goes_on(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(models, tmp_path / "models")
    for part in ("audio_vae", "vocoder"):
        (tmp_path / "models" / "ltx2" / part / "diffusion_pytorch_model.safetensors").unlink()
    _, previews, latents = denoised(tmp_path / "models", preview_sound=True)
    assert not any(preview.sound for preview in previews)
    assert latents["audio_latents"].size
    assert caplog.text.count("its sound cannot be decoded here") == 1, "it is tried once"


class Failing:
    def decode(self, _latents: Mapping[str, NDArray[Any]], _num_samples: int) -> NDArray[np.float32]:
        raise RuntimeError("not enough memory")


def test_a_decoder_of_sound_that_fails_leaves_the_video_alone(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounds, "load_sound", lambda *_: Failing())
    _, previews, latents = denoised(models, preview_sound=True)
    assert not any(preview.sound for preview in previews)
    assert latents["audio_latents"].size


def test_a_long_sound_is_cut_and_a_loud_one_clipped() -> None:
    long = to_wav(np.full((2, 25 * 48_000), 1.5, np.float32))
    assert len(long) == MOST_BYTES < 1_000_000
    assert np.frombuffer(long, "<i2", offset=44).min() == 32767
    left = to_wav(np.array([[0.5] * 4, [0.0] * 4], np.float32))
    assert np.frombuffer(left, "<i2", offset=44).tolist() == [8192, 8192]
