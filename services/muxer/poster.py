"""The poster: the frame that shows most, as a JPEG."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray
from PIL import Image

__all__ = ["detail", "fullest_frame", "save_jpeg"]

_QUALITY = 90
_CONTRAST_WEIGHT = 0.1


def detail(luma: NDArray[np.uint8]) -> float:
    """How much a frame shows: mean absolute step between neighbours, plus a tenth of the standard deviation.

    Luma (H, W) is averaged over 2 x 2 pixels first, so that grain does not win. Black frames, fades and white flashes
    have little of both.
    """
    height, width = luma.shape[0] // 2 * 2, luma.shape[1] // 2 * 2
    small = luma[:height, :width].astype(np.float32).reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    steps = np.abs(np.diff(small, axis=0)).sum() + np.abs(np.diff(small, axis=1)).sum()
    return float(steps / small.size + _CONTRAST_WEIGHT * small.std())


def fullest_frame(frames: Iterable[av.VideoFrame]) -> tuple[int, av.VideoFrame]:
    """Index and frame with the most `detail`, the earliest of equals. Raises ValueError when there is no frame."""
    best: tuple[float, int, av.VideoFrame] | None = None
    for index, frame in enumerate(frames):
        score = detail(frame.to_ndarray()[: frame.height].astype(np.uint8, copy=False))
        if best is None or score > best[0]:
            best = (score, index, frame)
    if best is None:
        raise ValueError("the picture has no frames")
    return best[1], best[2]


def save_jpeg(frame: av.VideoFrame, path: Path) -> None:
    """Write a BT.709 yuv420p ``frame`` as JPEG."""
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    Image.fromarray(rgb.to_ndarray()).save(path, "JPEG", quality=_QUALITY, optimize=True)
