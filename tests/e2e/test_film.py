"""The delivered file is what was asked for, picture and sound, as a player would find it."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from tests.e2e.film import Film
from tests.e2e.studio import PROMPT, SEED, STEPS, Made, Studio

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FRAMES = 12
AAC_FRAME_SAMPLES = 1024
MOST_JPEG_DIFFERENCE = 10.0
"""Mean over the pixels, of 255: measured 6.6 on pure noise, the worst there is for a JPEG."""


def test_what_is_recorded_is_what_was_asked(made: Made, studio: Studio) -> None:
    spec, defaults = made.video.spec, studio.model.defaults
    assert (spec.prompt, spec.seed, spec.num_inference_steps) == (PROMPT, SEED, STEPS)
    assert (spec.model, spec.width, spec.height) == (studio.model.name, defaults.width, defaults.height)
    assert (spec.duration.ToMilliseconds(), spec.fps) == (1000, 12.0)
    assert made.video.result.duration.ToMilliseconds() == 1000


def test_the_result_is_the_file_that_was_promised(made: Made) -> None:
    data = made.path.read_bytes()
    assert len(data) == made.video.result.size_bytes
    assert hashlib.sha256(data).hexdigest() == made.video.result.sha256


def test_frames_size_rate_and_times(film: Film, made: Made) -> None:
    assert film.frames.shape == (FRAMES, made.video.spec.height, made.video.spec.width, 3)
    assert film.rate == 12
    assert film.times == tuple(Fraction(index, 12) for index in range(FRAMES))
    assert film.picture_seconds == 1


def test_codecs_and_tags(film: Film) -> None:
    assert sorted(film.streams) == ["audio", "video"]
    assert film.video_codec == ("h264", "High", "yuv420p")
    assert film.colour == (1, 1, 1, 1)
    assert film.audio_codec == ("aac", "LC")
    assert film.sample_rate == 48_000


def test_a_player_can_start_before_it_has_everything(film: Film) -> None:
    assert film.boxes.index("moov") < film.boxes.index("mdat")


def test_the_picture_shows_something(film: Film) -> None:
    assert film.frames.std() > 5
    assert np.abs(np.diff(film.frames.astype(np.int16), axis=0)).mean() > 0.05, "it moves"


def test_the_sound_is_there_and_as_long_as_the_picture(film: Film) -> None:
    assert film.sound.shape[0] == 2
    assert 0 <= film.sound.shape[1] - 48_000 < AAC_FRAME_SAMPLES
    assert film.sound_start == 0
    assert abs(film.sound_seconds - film.picture_seconds) <= Fraction(1, 12)
    assert np.isfinite(film.sound).all()
    assert film.loudness_db > -60
    assert np.abs(film.sound).max() <= 1


def test_the_poster_is_one_of_the_frames(film: Film, made: Made) -> None:
    with Image.open(made.poster) as image:
        poster = np.asarray(image.convert("RGB"), np.float32)
    assert poster.shape == film.frames[0].shape
    nearest = min(float(np.abs(frame - poster).mean()) for frame in film.frames.astype(np.float32))
    assert nearest < MOST_JPEG_DIFFERENCE
