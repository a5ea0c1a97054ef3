"""Previews fit into their message, whatever they show."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from services.denoiser.preview import MOST_BYTES, to_jpeg


def test_large_noise_is_scaled_and_still_small() -> None:
    strip = np.random.default_rng(0).integers(0, 256, (2160, 3 * 3840, 3), np.uint8)
    data = to_jpeg(strip)
    assert len(data) <= MOST_BYTES
    assert Image.open(io.BytesIO(data)).size == (512, 96)


def test_worst_case_noise_at_full_width_fits() -> None:
    """1536 x 96 of pure noise is over the limit at the best quality."""
    strip = np.random.default_rng(0).integers(0, 256, (96, 1536, 3), np.uint8)
    data = to_jpeg(strip)
    assert len(data) <= MOST_BYTES
    assert Image.open(io.BytesIO(data)).size == (1536, 96)


def test_colours_survive() -> None:
    strip = np.zeros((96, 288, 3), np.uint8)
    strip[:, :96], strip[:, 96:192], strip[:, 192:] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    shown = np.asarray(Image.open(io.BytesIO(to_jpeg(strip))), np.int16)
    assert np.abs(shown[40, [40, 140, 240]] - strip[40, [40, 140, 240]]).max() < 12
