"""Shapes that several scenes paint: ridges, stars, crowds of small discs, and doubling of half-size fields."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.scenes.base import Canvas, Field, smoothstep

PAINT: dict[str, Field] = {
    "red": np.array((0.86, 0.06, 0.05), np.float32),
    "blue": np.array((0.05, 0.13, 0.72), np.float32),
    "yellow": np.array((0.98, 0.77, 0.03), np.float32),
    "green": np.array((0.04, 0.5, 0.14), np.float32),
}
"""What the words for colours look like in white light."""


def ridge(rng: np.random.Generator, x: Field, level: float, height: float, waves: int = 6, first: float = 1.0) -> Field:
    """A skyline: y of its top at each x in [0, 1], shape of x. Octaves of sines, halving; amplitude ``height``."""
    line = np.zeros_like(x)
    for octave in range(waves):
        frequency = first * 2.0**octave * rng.uniform(0.8, 1.2)
        line += 0.55**octave * np.sin(2 * np.pi * (frequency * x + rng.random()), dtype=np.float32)
    return (level - height * line / 1.6).astype(np.float32)


def below(canvas: Canvas, line: Field, softness: float = 0.004) -> Field:
    """1 under a skyline (H, W), 0 above it; ``line`` is y per column, (W,)."""
    _, y = canvas.grid
    return smoothstep(-softness, softness, y - line[None, :])


def star_layers(rng: np.random.Generator, canvas: Canvas, count: int, groups: int = 8) -> Field:
    """Stars as soft points, (groups, H, W): those of one group twinkle together. A few are large and bright."""
    x, y = rng.random((2, count)).astype(np.float32)
    brightness = (0.25 + 0.9 * rng.random(count) ** 3).astype(np.float32)
    radius = canvas.size / 256 * (0.7 + 0.75 * brightness)
    return splat(rng.integers(groups, size=count), x, y, radius, brightness, groups, canvas.size)


def twinkle(rng: np.random.Generator, canvas: Canvas, groups: int = 8, depth: float = 0.4) -> Field:
    """Brightness of each star group in each frame, (T, groups), around 1."""
    rate, phase = rng.uniform(0.5, 1.6, groups), rng.random(groups)
    wave = np.sin(2 * np.pi * (canvas.seconds[:, None] * rate + phase))
    return (1 + depth * wave).astype(np.float32)


def splat(
    frame: NDArray[np.integer],
    x: Field,
    y: Field,
    radius: Field,
    weight: Field,
    num_frames: int,
    size: int,
    reach: int = 0,
) -> Field:
    """Adds soft discs (Gaussians with sigma ``radius`` pixels, peak ``weight``) into frames, float32 (T, H, W).

    All inputs are flat, one entry a disc; x and y in [0, 1]. ``reach``: half the patch in pixels, 0 for 2.5 sigma.
    Parts outside the picture are cut.
    """
    half = reach or int(np.ceil(2.5 * float(np.max(radius, initial=0.5))))
    offset = np.arange(-half, half + 1)
    px, py = x * size - 0.5, y * size - 0.5
    column = np.rint(px).astype(np.int64)[:, None] + offset
    row = np.rint(py).astype(np.int64)[:, None] + offset
    scale = -0.5 / np.square(np.maximum(radius, 0.3))[:, None]
    across = np.exp(scale * np.square(column - px[:, None])) * ((column >= 0) & (column < size))
    down = np.exp(scale * np.square(row - py[:, None])) * ((row >= 0) & (row < size))
    value = (down * weight[:, None])[:, :, None] * across[:, None, :]
    index = (frame[:, None, None] * size + np.clip(row, 0, size - 1)[:, :, None]) * size + np.clip(column, 0, size - 1)[
        :, None, :
    ]
    total = np.bincount(index.ravel(), value.ravel(), minlength=num_frames * size * size)
    return total.reshape(num_frames, size, size).astype(np.float32)


def doubled(field: Field) -> Field:
    """Doubles the last two axes, bilinear: (..., h, w) -> (..., 2h, 2w)."""
    return _double_last(_double_last(field).swapaxes(-1, -2)).swapaxes(-1, -2)


def _double_last(field: Field) -> Field:
    before = np.concatenate([field[..., :1], field[..., :-1]], axis=-1)
    after = np.concatenate([field[..., 1:], field[..., -1:]], axis=-1)
    pair = np.stack([0.75 * field + 0.25 * before, 0.75 * field + 0.25 * after], axis=-1)
    return pair.reshape(*field.shape[:-1], -1).astype(np.float32, copy=False)
