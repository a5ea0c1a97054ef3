"""How the camera of a clip moved: which move of rendered cameras explains best how its picture changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bench.evaluation.clips import SMALL, small
from libs.families.diorama.camera import MOST_ZOOM, PAN_WAY, PAN_WIDTH, SECONDS, Camera
from training.look import FPS
from training.scenes.camera import MOVES

GAP = 12
"""Frames between those compared: long enough for a move to be seen, short enough for the scene to be the same."""
STEP = 3
SPEEDS = (0.6, 1.0, 1.5)
"""Of a move, over that of a rendered camera."""
BLUR, SURROUND = 1.2, 6.0
"""Pixels of 64. Blurred, a picture loses nothing more when it is moved by half a pixel; less its surroundings, what is
dark counts as much as what is bright."""
MOST = 1.0
"""Differences above this count as this: what appears or burns says nothing of the camera."""
LEAST_GAIN = 0.04
"""Share by which a move must explain the picture better than a still camera."""

Contrast = NDArray[np.float32]


def told(frames: NDArray[np.uint8]) -> Camera:
    """Frames (T, H, W, 3), more than `GAP`."""
    seen = [_contrast(frame) for frame in small(frames).mean(axis=-1)]
    pairs = [(seen[at], seen[at + GAP]) for at in range(0, len(seen) - GAP, STEP)]
    still = _left_over(pairs, (0.0, 0.0), 1.0)
    moved = {move: min(_left_over(pairs, *_change(move, speed)) for speed in SPEEDS) for move in MOVES}
    best = min(moved, key=lambda move: moved[move])
    return best if moved[best] < (1 - LEAST_GAIN) * still else "still"


def _contrast(grey: NDArray[np.float32]) -> Contrast:
    smooth = ndimage.gaussian_filter(grey, BLUR)
    detail = smooth - ndimage.gaussian_filter(grey, SURROUND)
    return np.asarray(detail / (np.sqrt(ndimage.gaussian_filter(detail**2, SURROUND)) + 2.0), dtype=np.float32)


def _change(move: Camera, speed: float) -> tuple[tuple[float, float], float]:
    """Pixels by which a picture moves (down, right) in `GAP` frames, and how much it grows."""
    share = speed * GAP / FPS / SECONDS
    if move == "push in":
        return (0.0, 0.0), MOST_ZOOM**share
    right = SMALL * PAN_WAY / PAN_WIDTH * share
    return (0.0, right if move == "pan left" else -right), 1.0


def _left_over(pairs: list[tuple[Contrast, Contrast]], shift: tuple[float, float], growth: float) -> float:
    """Mean difference when the first picture of each pair is moved; of the middle, which is seen before and after."""
    inner = slice(6, -6)
    centre = (SMALL - 1) / 2
    matrix = np.eye(2) / growth
    offset = centre - (centre + np.array(shift)) / growth
    errors = [
        np.minimum(np.abs(after - ndimage.affine_transform(before, matrix, offset, order=1, mode="nearest")), MOST)
        for before, after in pairs
    ]
    return float(np.mean([error[inner, inner] for error in errors]))
