"""Reading what a stranger says is a picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from libs.errors import InvalidRequest
from services.encoder.picture import ImageLimits, read_image

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, quality=95)
    return buffer.getvalue()


def test_colours_are_kept() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(read_image(png(Image.fromarray(pixels)), "image/png", LIMITS), pixels)


def test_grey_of_16_bits_is_scaled() -> None:
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)
    read = read_image(png(Image.fromarray(grey)), "image/png", LIMITS)
    np.testing.assert_array_equal(read[0], [[0] * 3, [1] * 3, [128] * 3, [255] * 3])


def test_transparent_is_black() -> None:
    read = read_image(png(Image.new("RGBA", (2, 2), (255, 200, 100, 0))), "image/png", LIMITS)
    assert not read.any()


def test_palette_and_grey_become_rgb() -> None:
    for mode in ("P", "L", "1"):
        assert read_image(png(Image.new(mode, (3, 2), 1)), "image/png", LIMITS).shape == (2, 3, 3)


def test_turned_as_the_camera_says() -> None:
    image = Image.new("RGB", (32, 16), "blue")
    image.paste("red", (0, 0, 16, 16))
    read = read_image(jpeg(image, orientation=6), "image/jpeg", LIMITS)
    assert read.shape == (32, 16, 3)
    assert read[4, 8, 0] > 200 > 50 > read[28, 8, 0], "red was left, turned clockwise it is on top"


@pytest.mark.parametrize("side", [1_001, 10_000, 20_000], ids=["ours", "pillow warns", "pillow refuses"])
def test_bomb_is_refused_before_it_unfolds(side: int) -> None:
    """Few bytes, many pixels: one bit each, all the same."""
    data = png(Image.new("1", (side, side)))
    assert len(data) < LIMITS.max_bytes
    with pytest.raises(InvalidRequest, match="million pixels") as raised:
        read_image(data, "image/png", LIMITS)
    assert raised.value.reason == "IMAGE_TOO_LARGE"
