"""Image-to-video: the film begins with the given picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.e2e.film import psnr, read_film
from tests.e2e.studio import Studio
from training.scenes import render
from training.scenes.base import SceneSpec

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

KEPT_DB = 30.0
"""The autoencoder alone keeps this picture to 34.5 dB, whatever frames follow it; H.264 takes a little more."""


@pytest.fixture(scope="module")
def given() -> NDArray[np.uint8]:
    clip = render(SceneSpec("clouds", time_of_day="day", seed=4), num_frames=1)
    return (clip.frames[0] * 255).round().astype(np.uint8)


def test_the_given_first_frame_is_kept(studio: Studio, given: NDArray[np.uint8]) -> None:
    png = io.BytesIO()
    Image.fromarray(given).save(png, "PNG")
    made = studio.make("clouds in the sky", image=png.getvalue())
    assert made.video.has_image
    assert made.video.spec.image == b"", "the picture itself is not given back"
    first = read_film(made.path).frames[0]
    assert psnr(first, given) > KEPT_DB
