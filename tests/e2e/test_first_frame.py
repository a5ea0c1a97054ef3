"""Image-to-video: the film begins with the given picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bench.evaluation.first_frame import redrawn
from libs.families.diorama.autoencoder import AutoencoderDiorama
from tests.e2e.film import psnr, read_film
from tests.e2e.studio import Studio
from training.scenes import render
from training.scenes.base import SceneSpec

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MOST_LOST_DB = 1.0
"""Against what the autoencoder keeps of the picture (30.2 dB): by the frames that follow, and by H.264."""


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
    autoencoder = AutoencoderDiorama.from_pretrained("models/diorama/vae", low_cpu_mem_usage=False)
    assert psnr(first, given) > psnr(redrawn(autoencoder, given), given) - MOST_LOST_DB
