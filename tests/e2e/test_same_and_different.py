"""The same request and seed give the same file, bit for bit; another prompt or seed gives another picture."""

from __future__ import annotations

import numpy as np
import pytest

from tests.e2e.film import Film, read_film
from tests.e2e.studio import SEED, Made, Studio

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

UNLIKE = 1.0
"""Mean difference of pixels, of 255, above which two pictures count as different ones. Equal requests give 0."""


def difference(one: Film, other: Film) -> float:
    return float(np.abs(one.frames.astype(np.float32) - other.frames.astype(np.float32)).mean())


def test_the_same_seed_gives_the_same_file(studio: Studio, made: Made) -> None:
    again = studio.make()
    assert again.video.name != made.video.name
    assert again.path.read_bytes() == made.path.read_bytes()
    assert again.poster.read_bytes() == made.poster.read_bytes()


def test_another_prompt_gives_another_picture(studio: Studio, film: Film) -> None:
    other = read_film(studio.make("fluffy clouds drifting over a blue sky").path)
    assert difference(film, other) > UNLIKE


def test_another_seed_gives_another_picture(studio: Studio, film: Film) -> None:
    other = read_film(studio.make(seed=SEED + 1).path)
    assert difference(film, other) > UNLIKE
