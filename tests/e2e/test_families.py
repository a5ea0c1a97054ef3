"""Other families through all services: LTX, LTX-2 with its joint sound, Wan 2.2 5B, with tiny random weights."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file
from soundstage.video.v1 import video_pb2 as pb

from client import SoundstageClient
from deploy.local.plan import MODELS
from deploy.local.state import State
from libs.families.ltx2 import LTX2Sound
from tests.e2e.film import Film, read_film
from tests.e2e.one_process import serving_soundstage
from tests.e2e.studio import Made, Studio
from tests.support.tiny_families import write_tiny

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FAMILIES = ("ltx", "ltx2", "wan22-5b")
PROMPT = "waves on a beach"
FRAMES = 6
DECODED_AGAIN = 1e-4
"""Of full scale: FLAC's 24 bits, and what another number of threads moves a float."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As an operator puts them there: those without sound of their own with Diorama's."""
    folder = tmp_path_factory.mktemp("models")
    for name in FAMILIES:
        card = json.loads((write_tiny(folder, name) / "soundstage.json").read_text())
        if not card["joint_audio"]:
            shutil.copytree(MODELS / "diorama" / "sound", folder / name / "sound")
    return folder


@pytest.fixture(scope="module")
def families(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    state = State(tmp_path_factory.mktemp("stack"))
    with serving_soundstage(state, models, FAMILIES[0]) as address, SoundstageClient(address) as client:
        yield Studio(state, client, client.models()[0], tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="module")
def from_text(families: Studio) -> Callable[[str], tuple[Made, Film]]:
    """Each family's video from text alone, made once."""

    @cache
    def make(model: str) -> tuple[Made, Film]:
        return _make(families, model)

    return make


@pytest.mark.parametrize("model", FAMILIES)
def test_text_becomes_a_film(
    families: Studio,
    from_text: Callable[[str], tuple[Made, Film]],
    capfd: pytest.CaptureFixture[str],
    model: str,
) -> None:
    made, film = from_text(model)
    _check(families, made, film, model)
    assert film.loudness_db > -60
    assert "it/s" not in capfd.readouterr().err, "progress bars do not belong into a service's log"


@pytest.mark.parametrize("model", FAMILIES)
def test_a_first_frame_becomes_another_film(
    families: Studio, from_text: Callable[[str], tuple[Made, Film]], model: str
) -> None:
    """Random weights draw no picture that could be told again; that it changes every frame shows that it was used."""
    made, film = _make(families, model, image=_picture())
    assert made.video.has_image
    _check(families, made, film, model)
    differences = np.abs(film.frames.astype(np.int16) - from_text(model)[1].frames)
    assert (differences.mean(axis=(1, 2, 3)) > 0.5).all()


def test_joint_sound_is_that_of_the_latents(
    families: Studio, models: Path, from_text: Callable[[str], tuple[Made, Film]]
) -> None:
    """What the audio stage wrote is what the model's own decoder makes of the denoiser's latents."""
    made, _ = from_text("ltx2")
    latents = load_file(_artifact(families, made.video, "latents.safetensors"))
    assert "audio_latents" in latents
    sound = _read_flac(_artifact(families, made.video, "sound.flac"))
    again = LTX2Sound(models / "ltx2").decode(latents, sound.shape[1])
    assert sound.std() > 1e-3
    assert np.abs(sound - again).max() < DECODED_AGAIN


@pytest.mark.parametrize("model", ["ltx", "ltx2"])
def test_silence_can_be_asked_for(families: Studio, model: str) -> None:
    made, film = _make(families, model, audio_intent="silent")
    assert not _read_flac(_artifact(families, made.video, "sound.flac")).any()
    assert not film.sound.any()


def _make(studio: Studio, model: str, **fields: object) -> tuple[Made, Film]:
    made = studio.make(PROMPT, model=model, duration=0.25, num_inference_steps=2, **fields)
    return made, read_film(made.path)


def _check(studio: Studio, made: Made, film: Film, model: str) -> None:
    card = next(card for card in studio.client.models() if card.name == model)
    rate = Fraction(card.defaults.fps)
    assert made.video.spec.model == model
    assert film.frames.shape == (FRAMES, card.defaults.height, card.defaults.width, 3)
    assert film.rate == rate
    assert film.frames.std() > 1, "it is not one colour"
    assert sorted(film.streams) == ["audio", "video"]
    assert (film.sound_start, film.sample_rate, len(film.sound)) == (0, 48_000, 2)
    assert abs(film.sound_seconds - film.picture_seconds) <= 1 / rate
    assert {timing.stage for timing in made.video.stage_timings} == set(pb.Stage.values()) - {pb.STAGE_UNSPECIFIED}


def _artifact(studio: Studio, video: pb.Video, name: str) -> Path:
    (found,) = [path for path in studio.stored(video) if path.endswith(f"/{name}")]
    return studio.state.artifacts / found


def _read_flac(path: Path) -> NDArray[np.float32]:
    with av.open(str(path)) as container:
        blocks = [frame.to_ndarray().reshape(-1, 2).T for frame in container.decode(audio=0)]
    return (np.concatenate(blocks, axis=1) / 2.0**31).astype(np.float32)


def _picture() -> bytes:
    """A blue sky over a yellow beach, as PNG."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:40], pixels[40:] = (80, 140, 230), (230, 200, 120)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return png.getvalue()
