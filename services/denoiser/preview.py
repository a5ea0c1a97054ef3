"""A look at the picture while it is made, small enough for a message."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["MOST_BYTES", "to_jpeg"]

MOST_BYTES = 64 * 1024
"""Limit of the contract."""

_MOST_WIDTH, _MOST_HEIGHT = 1536, 96
_QUALITIES = (80, 60, 40, 20, 5)


def to_jpeg(strip: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) -> JPEG at most 96 pixels high, at the best of a few qualities that stays within `MOST_BYTES`."""
    image = Image.fromarray(strip)
    image.thumbnail((_MOST_WIDTH, _MOST_HEIGHT), Image.Resampling.BILINEAR)
    encoded = (_encode(image, quality) for quality in _QUALITIES)
    return next(data for data in encoded if len(data) <= MOST_BYTES)


def _encode(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
