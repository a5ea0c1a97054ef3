"""Aurora: curtains of light over snowy mountains, with a faint high shimmer.

A curtain is a fold that wanders sideways; its lower edge is sharp (green, oxygen at 557.7 nm, where the electrons stop)
and it fades upwards into violet (nitrogen). Rays along the field lines run along the fold. The shimmer
follows the light, on the left that of the left half.
"""

from __future__ import annotations

import numpy as np

from training.scenes.base import Canvas, Clip, Field, SceneSpec, fractal, noise_band, over, ramp, sample, smoothstep
from training.scenes.shapes import below, doubled, ridge, star_layers, twinkle

FAMILY = "aurora"
VARIES = frozenset({"strength"})
SUBJECTS = (
    "an aurora",
    "an aurora borealis",
    "polar lights",
    "green curtains of light over snowy mountains",
    "an aurora over mountains",
    "a green aurora in the sky",
)

LEVEL = {"weak": 0.005, "strong": 0.016}
PARTIALS_HZ = (5200.0, 7400.0, 10_500.0)


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Frames (T, H, W, 3) and sound (2, N)."""
    rng, strong = canvas.rng, spec.strength == "strong"
    _, y = canvas.grid
    night = ramp(np.broadcast_to(y, (canvas.size, canvas.size)), (0.0, (0.01, 0.02, 0.07)), (0.8, (0.03, 0.09, 0.16)))
    stars = np.tensordot(twinkle(rng, canvas), star_layers(rng, canvas, 90), axes=1)
    green, violet = _curtains(canvas, 3 if strong else 2, 1.0 if strong else 0.5)
    glow = green.mean(axis=(1, 2))
    frames = night + 0.6 * stars[..., None]
    frames += green[..., None] * np.array([0.12, 1.0, 0.48], np.float32)
    frames += violet[..., None] * np.array([0.62, 0.14, 0.85], np.float32)
    _mountains(canvas, frames, glow)
    return Clip(np.clip(frames, 0, 1), LEVEL[spec.strength] * _shimmer(canvas, green))


def _shimmer(canvas: Canvas, green: Field) -> Field:
    """Three thin, very high bands; the ear of each half hears how bright its half is, much exaggerated, (2, N)."""
    middle, sides = canvas.size // 2, []
    for half in (green[:, :, :middle], green[:, :, middle:]):
        glow = half.mean(axis=(1, 2)) / max(float(green.mean()), 1e-6)
        bands = [noise_band(canvas.rng, canvas.num_samples, low, 1.09 * low) for low in PARTIALS_HZ]
        sides.append(sum(bands) / np.sqrt(len(bands)) * canvas.frame_envelope(np.minimum(glow, 1.6) ** 3))
    return np.stack(sides).astype(np.float32)


def _curtains(canvas: Canvas, count: int, brightness: float) -> tuple[Field, Field]:
    """Green and violet light, each (T, H, W)."""
    rng = canvas.rng
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    _, y = half.grid
    green = np.zeros((half.num_frames, half.size, half.size), np.float32)
    violet = np.zeros_like(green)
    pulse = 1 + 0.25 * np.sin(2 * np.pi * (canvas.seconds * rng.uniform(0.12, 0.25) + rng.random()), dtype=np.float32)
    for index in range(count):
        edge, rays = _fold(half, 0.36 + 0.16 * index / count + rng.uniform(-0.04, 0.06))
        height = (edge[:, None, :] - y[None]) / np.float32(rng.uniform(0.16, 0.26))
        light = rays[:, None, :] * smoothstep(-0.12, 0.12, height) * (brightness * pulse[:, None, None])
        green += light * np.exp(-1.45 * np.maximum(height, 0))
        violet += light * 0.55 * np.exp(-np.square((height - 1.15) / 0.7))
    return doubled(0.95 * np.tanh(green)), doubled(0.9 * np.tanh(violet))


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
    """Paints snowy peaks and a snow field in place; both take some of the curtain's green."""
    rng = canvas.rng
    x, y = canvas.grid
    peaks = ridge(rng, x[0], rng.uniform(0.72, 0.78), rng.uniform(0.06, 0.09), first=1.6)
    relief = sample(fractal(rng, 128, slope=1.3), 2 * x + 0.8 * y, 2 * y)
    snow = smoothstep(0.3, -0.5, (y - peaks[None, :]) / 0.09 - 0.6 + 0.35 * relief)
    rock, white = np.array([0.03, 0.045, 0.08], np.float32), np.array([0.34, 0.42, 0.55], np.float32)
    stone = rock + (white - rock) * (snow * (0.75 + 0.15 * relief))[..., None]
    field = below(canvas, ridge(rng, x[0], rng.uniform(0.88, 0.92), 0.012))
    ground = over(stone, 0.8 * white, field)
    lit = ground[None] * (0.6 + np.array([0.3, 2.6, 1.2], np.float32) * glow[:, None, None, None])
    frames[:] = over(frames, lit, below(canvas, peaks))
