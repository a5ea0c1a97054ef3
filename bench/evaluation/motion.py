"""How a clip moves, in numbers that a rendered clip of the same description can be held against."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bench.evaluation.clips import small

LATENT_FRAMES = 4
"""Frames of one latent frame; the first frame has one of its own."""
NEIGHBOURHOOD = 3.0
"""Deviation in pixels of the window in which one flow is assumed."""
STIFFNESS = 5.0
"""Added to the diagonal, so that even areas stand still; grey levels squared a pixel squared."""


@dataclass(frozen=True)
class Motion:
    """At 64 x 64 pixels, in grey levels of 255 and pixels a frame."""

    energy: float
    """Mean absolute difference of neighbouring frames."""
    speed: float
    """Mean length of the optical flow."""
    flicker: float
    """Mean absolute difference that is left when a frame is moved along the flow to the next."""
    jump: float
    """Difference where one latent frame ends and the next begins, over that within them; 1 is seamless."""


def measure(frames: NDArray[np.uint8]) -> Motion:
    """Frames (T, H, W, 3), ten or more."""
    grey = small(frames).mean(axis=-1)
    steps = np.abs(np.diff(grey, axis=0)).mean(axis=(1, 2))
    flows = [flow(before, after) for before, after in pairwise(grey)]
    moments = zip(grey[:-1], grey[1:], flows, strict=True)
    left = [np.abs(after - moved(before, along)).mean() for before, after, along in moments]
    seam = np.arange(len(steps)) % LATENT_FRAMES == 0
    seam[0] = False  # the first frame is a latent frame, and a still, of its own
    within = ~seam
    within[0] = False
    return Motion(
        float(steps.mean()),
        float(np.mean([np.hypot(*along).mean() for along in flows])),
        float(np.mean(left)),
        float((steps[seam].mean() + 1e-3) / (steps[within].mean() + 1e-3)),
    )


def flow(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dense flow (2, H, W), down and to the right, by least squares in a window (Lucas and Kanade, 1981)."""
    down, right = np.gradient((before + after) / 2)
    change = after - before
    a, b, c, d, e = (
        ndimage.gaussian_filter(product, NEIGHBOURHOOD)
        for product in (down * down, down * right, right * right, down * change, right * change)
    )
    a, c = a + STIFFNESS, c + STIFFNESS
    determinant = a * c - b * b
    return np.stack([b * e - c * d, b * d - a * e]) / determinant


def moved(frame: NDArray[np.float32], along: NDArray[np.float32]) -> NDArray[np.float32]:
    """The frame where the flow takes it."""
    places = np.indices(frame.shape, dtype=np.float32) - along
    return ndimage.map_coordinates(frame, places, order=1, mode="nearest")
