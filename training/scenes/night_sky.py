"""A starry night sky over dark hills, nearly silent.

Stars twinkle (scintillation) in groups, a band of faint light crosses the sky, now and then a meteor falls. The side
is the moon's; "centre" has no moon. A strong wind drives thin clouds across the stars and is heard as a faint breath,
and an owl hoots far away; without it there is silence.
"""

from __future__ import annotations

import numpy as np

from training.scenes.base import (
    SAMPLE_RATE,
    Canvas,
    Clip,
    Field,
    SceneSpec,
    add_at,
    diffuse,
    fractal,
    over,
    pan,
    ramp,
    sample,
    slow_noise,
    smoothstep,
)
from training.scenes.shapes import below, doubled, ridge, splat, star_layers, twinkle

FAMILY = "night_sky"
VARIES = frozenset({"side", "strength"})
SUBJECTS = (
    "a starry sky",
    "stars",
    "a night sky full of stars",
    "twinkling stars over dark hills",
    "a sky full of stars",
    "a starry night",
)

WIND_LEVEL = 0.004
OWL_LEVEL = 0.03
HOOTS = ((0.0, 0.55, 1.0), (1.0, 0.13, 0.5), (1.22, 0.85, 0.9))
"""Second of its beginning, seconds and level of each note of a tawny owl's call."""
CALL_SECONDS = 3.2
SILENCE_LEVEL = 0.0003


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Frames (T, H, W, 3) and sound (2, N)."""
    rng = canvas.rng
    heavens = _heavens(canvas)
    light = np.tensordot(twinkle(rng, canvas), star_layers(rng, canvas, int(rng.integers(130, 240))), axes=1)
    if rng.random() < 0.5:
        light += _meteor(canvas)
    frames = heavens + light[..., None] * np.array([0.95, 0.97, 1.0], np.float32)
    gusts = np.maximum(1 + 0.4 * slow_noise(rng, canvas.num_frames, 10), 0.2)
    if spec.strength == "strong":
        frames = over(frames, np.array([0.10, 0.12, 0.19], np.float32), _thin_clouds(canvas))
    if spec.side != "centre":
        frames = _moon(canvas, frames, {"left": 0.22, "right": 0.78}[spec.side])
    x, _ = canvas.grid
    hills = below(canvas, ridge(rng, x[0], rng.uniform(0.78, 0.88), rng.uniform(0.03, 0.08)))
    frames = over(frames, np.array([0.008, 0.012, 0.02], np.float32), hills)
    level = canvas.frame_envelope(gusts) * (WIND_LEVEL if spec.strength == "strong" else SILENCE_LEVEL)
    sound = diffuse(rng, level, 180, 600, tilt=-3)
    if spec.strength == "strong":
        sound += pan(OWL_LEVEL * _owl(canvas), rng.uniform(0.2, 0.8))
    return Clip(np.clip(frames, 0, 1), sound)


def _heavens(canvas: Canvas) -> Field:
    """Sky gradient and the band of faint stars across it, (H, W, 3)."""
    rng = canvas.rng
    x, y = canvas.grid
    hue = rng.uniform(0, 1)
    zenith, low = (0.012 + 0.02 * hue, 0.02, 0.075), (0.05 + 0.05 * hue, 0.09, 0.21)
    base = ramp(np.broadcast_to(y, (canvas.size, canvas.size)), (0.0, zenith), (0.9, low))
    angle = rng.uniform(0.5, 1.1) * rng.choice([-1, 1])
    across = (x - rng.uniform(0.35, 0.65)) * np.cos(angle) + (y - 0.4) * np.sin(angle)
    dust = 0.75 + 0.25 * sample(fractal(rng, 128), x, y)
    band = np.exp(-np.square(across / 0.11)) * np.clip(dust, 0.1, 1.6)
    return (base + band[..., None] * np.array([0.17, 0.16, 0.25], np.float32)).astype(np.float32)


def _moon(canvas: Canvas, frames: Field, centre: float) -> Field:
    x, y = canvas.grid
    at_x, at_y = centre + canvas.rng.uniform(-0.05, 0.05), canvas.rng.uniform(0.15, 0.3)
    radius = canvas.rng.uniform(0.05, 0.075)
    away = np.hypot(x - at_x, y - at_y)
    frames = frames + (0.3 * np.exp(-away / 0.09))[..., None] * np.array([0.8, 0.85, 1.0], np.float32)
    shade = 0.93 + 0.04 * sample(fractal(canvas.rng, 64), x * 2, y * 2)
    colour = shade[..., None] * np.array([1.0, 0.97, 0.86], np.float32)
    return over(frames, colour, 1 - smoothstep(radius - 0.006, radius + 0.006, away))


def _meteor(canvas: Canvas) -> Field:
    """A streak that crosses part of the sky in half a second, (T, H, W)."""
    rng = canvas.rng
    first = int(rng.integers(0, max(canvas.num_frames - 8, 1)))
    x0, y0, way = rng.uniform(0.2, 0.8), rng.uniform(0.05, 0.25), rng.choice([-1, 1])
    step, tail = np.meshgrid(np.arange(7), np.linspace(0, 1, 30), indexing="ij")
    travelled = 0.065 * (step - 1.8 * tail)
    frame, fade = (first + step).ravel(), ((1 - tail) * np.sin(np.pi * (step + 0.7) / 7.5) * (travelled >= 0)).ravel()
    keep = frame < canvas.num_frames
    x, y = (x0 + way * travelled).ravel()[keep], (y0 + 0.5 * travelled).ravel()[keep]
    width = np.full(len(x), 1.1 * canvas.size / 256)
    return splat(frame[keep], x, y, width, 0.7 * fade[keep], canvas.num_frames, canvas.size)


def _thin_clouds(canvas: Canvas) -> Field:
    """Opacity of drifting veils, (T, H, W)."""
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, canvas.rng)
    x, y = half.grid
    drift = canvas.seconds[:, None, None] * np.float32(canvas.rng.uniform(0.05, 0.08) * canvas.rng.choice([-1, 1]))
    veil = sample(fractal(canvas.rng, 128, slope=2.0), x * 0.7 + drift, y * 1.6 + 0 * drift)
    return doubled(0.7 * smoothstep(0.1, 1.6, veil))


def _owl(canvas: Canvas) -> Field:
    """Calls of a tawny owl one after the other: notes about 420 Hz that swell and sink a little, (N,)."""
    track, pitch = np.zeros(canvas.num_samples, np.float32), canvas.rng.uniform(390, 450)
    for call in np.arange(canvas.rng.uniform(0.1, 0.9), canvas.num_samples / SAMPLE_RATE, CALL_SECONDS):
        for begin, seconds, level in HOOTS:
            t = np.arange(round(seconds * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
            tone = np.sin(2 * np.pi * pitch * t * (1 - 0.06 * t)) + 0.15 * np.sin(
                4 * np.pi * pitch * t * (1 - 0.06 * t)
            )
            add_at(track, round((call + begin) * SAMPLE_RATE), level * np.sin(np.pi * t / seconds) ** 0.7 * tone)
    return track
