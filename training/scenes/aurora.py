"""Aurora: curtains of light over snowy mountains, with a faint high shimmer.

A curtain is a fold that wanders sideways; its lower edge is sharp, where the electrons stop, and it fades upwards into
another colour: green (oxygen at 557.7 nm) into violet (nitrogen), or, rarer, purple or red (oxygen at 630 nm). Rays
along the field lines run along the fold. The shimmer follows the light, on the left that of the left half.
"""

from __future__ import annotations

import numpy as np

from training.scenes.base import Canvas, Clip, Field, SceneSpec, fractal, noise_band, over, ramp, sample, smoothstep
from training.scenes.shapes import below, doubled, ridge, star_layers, twinkle

FAMILY = "aurora"
VARIES = frozenset({"strength", "colour"})
SUBJECTS = (
    "an aurora",
    "an aurora borealis",
    "polar lights",
    "curtains of light over snowy mountains",
    "an aurora over mountains",
    "an aurora in the sky",
)
COLOURS = ("green", "purple", "red")

EDGE = {"green": (0.12, 1.0, 0.48), "purple": (0.72, 0.16, 1.0), "red": (1.0, 0.14, 0.2)}
TOP = {"green": (0.62, 0.14, 0.85), "purple": (0.25, 0.22, 0.95), "red": (0.75, 0.1, 0.42)}
"""Colours of a curtain at its lower edge and further up, by the colour of the whole."""

LEVEL = {"weak": 0.005, "strong": 0.016}
PARTIALS_HZ = (5200.0, 7400.0, 10_500.0)


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Frames (T, H, W, 3) and sound (2, N)."""
    rng, strong = canvas.rng, spec.strength == "strong"
    _, y = canvas.grid
    night = ramp(np.broadcast_to(y, (canvas.size, canvas.size)), (0.0, (0.01, 0.02, 0.07)), (0.8, (0.03, 0.09, 0.16)))
    stars = np.tensordot(twinkle(rng, canvas), star_layers(rng, canvas, 90), axes=1)
    colour = spec.colour or "green"
    edge, top = _curtains(canvas, 3 if strong else 2, 1.0 if strong else 0.5)
    glow = edge.mean(axis=(1, 2))
    frames = night + 0.6 * stars[..., None]
    frames += edge[..., None] * np.array(EDGE[colour], np.float32)
    frames += top[..., None] * np.array(TOP[colour], np.float32)
    _mountains(canvas, frames, glow[:, None] * np.array(EDGE[colour], np.float32))
    return Clip(np.clip(frames, 0, 1), LEVEL[spec.strength] * _shimmer(canvas, edge))


def _shimmer(canvas: Canvas, edge: Field) -> Field:
    """Three thin, very high bands; the ear of each half hears how bright its half is, much exaggerated, (2, N)."""
    middle, sides = canvas.size // 2, []
    for half in (edge[:, :, :middle], edge[:, :, middle:]):
        glow = half.mean(axis=(1, 2)) / max(float(edge.mean()), 1e-6)
        bands = [noise_band(canvas.rng, canvas.num_samples, low, 1.09 * low) for low in PARTIALS_HZ]
        sides.append(sum(bands) / np.sqrt(len(bands)) * canvas.frame_envelope(np.minimum(glow, 1.6) ** 3))
    return np.stack(sides).astype(np.float32)


def _curtains(canvas: Canvas, count: int, brightness: float) -> tuple[Field, Field]:
    """Light of the lower edges and of what is above them, each (T, H, W)."""
    rng = canvas.rng
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    _, y = half.grid
    edge_light = np.zeros((half.num_frames, half.size, half.size), np.float32)
    top_light = np.zeros_like(edge_light)
    pulse = 1 + 0.25 * np.sin(2 * np.pi * (canvas.seconds * rng.uniform(0.12, 0.25) + rng.random()), dtype=np.float32)
    for index in range(count):
        edge, rays = _fold(half, 0.36 + 0.16 * index / count + rng.uniform(-0.04, 0.06))
        height = (edge[:, None, :] - y[None]) / np.float32(rng.uniform(0.16, 0.26))
        light = rays[:, None, :] * smoothstep(-0.12, 0.12, height) * (brightness * pulse[:, None, None])
        edge_light += light * np.exp(-1.45 * np.maximum(height, 0))
        top_light += light * 0.55 * np.exp(-np.square((height - 1.15) / 0.7))
    return doubled(0.95 * np.tanh(edge_light)), doubled(0.9 * np.tanh(top_light))


def _fold(half: Canvas, level: float) -> tuple[Field, Field]:
    """Lower edge of a curtain (y) and brightness of its rays, each (T, W)."""
    rng, x, t = half.rng, half.grid[0], half.seconds[:, None]
    edge = np.full((half.num_frames, half.size), level, np.float32)
    for frequency, amplitude in ((0.7, 0.075), (1.6, 0.045), (3.3, 0.018)):
        speed = rng.uniform(0.05, 0.14) * rng.choice([-1, 1]) * (1 + frequency / 3)
        edge += amplitude * np.sin(2 * np.pi * (frequency * x + speed * t + rng.random()), dtype=np.float32)
    texture, drift = fractal(rng, 128, slope=1.1, lowest=3), rng.uniform(0.02, 0.04)
    rays = sample(texture, 0.5 * x + drift * t, 0.035 * t + rng.random() + 0 * x)
    broad = sample(fractal(rng, 64, slope=2.0), 0.4 * x - drift * t, 0.04 * t + 0 * x)
    return edge, np.clip(0.75 + 0.3 * rays + 0.35 * broad, 0.05, 1.7).astype(np.float32)


def _mountains(canvas: Canvas, frames: Field, glow: Field) -> None:
    """Paints snowy peaks and a snow field in place; both take some of the curtains' ``glow`` (T, 3)."""
    rng = canvas.rng
    x, y = canvas.grid
    peaks = ridge(rng, x[0], rng.uniform(0.72, 0.78), rng.uniform(0.06, 0.09), first=1.6)
    relief = sample(fractal(rng, 128, slope=1.3), 2 * x + 0.8 * y, 2 * y)
    snow = smoothstep(0.3, -0.5, (y - peaks[None, :]) / 0.09 - 0.6 + 0.35 * relief)
    rock, white = np.array([0.03, 0.045, 0.08], np.float32), np.array([0.34, 0.42, 0.55], np.float32)
    stone = rock + (white - rock) * (snow * (0.75 + 0.15 * relief))[..., None]
    field = below(canvas, ridge(rng, x[0], rng.uniform(0.88, 0.92), 0.012))
    ground = over(stone, 0.8 * white, field)
    lit = ground[None] * (0.6 + 2.6 * glow[:, None, None, :])
    frames[:] = over(frames, lit, below(canvas, peaks))
