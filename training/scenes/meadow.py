"""A field of tall grass or wheat with gusts of wind running through it.

Gusts are one travelling field over the ground plane. Where a gust passes, the grass bends and shows its pale side, the
stalks in front lean, and the rustling gets louder; the left ear hears the left half of the near field.
"""

from __future__ import annotations

import numpy as np
from scipy import signal

from training.scenes.base import (
    LIGHT,
    SAMPLE_RATE,
    Canvas,
    Clip,
    Field,
    SceneSpec,
    fractal,
    noise_band,
    over,
    sample,
    sky,
    smoothstep,
)
from training.scenes.shapes import doubled, ridge, splat

FAMILY = "meadow"
VARIES = frozenset({"time_of_day", "strength"})
SUBJECTS = ("a meadow", "tall grass", "grass waving in the wind", "a field of tall grass", "a grassy meadow")
WHEAT_SUBJECTS = ("a wheat field", "a golden field", "ripe wheat waving in the wind", "a field of wheat")
"""Names for the scenes in which ``is_wheat`` holds."""

WHEAT = ((0.62, 0.46, 0.14), (0.96, 0.83, 0.46))
GREEN = (((0.30, 0.50, 0.13), (0.66, 0.80, 0.36)), ((0.42, 0.52, 0.16), (0.80, 0.84, 0.42)))
"""Upright and bent-over colour of ripe wheat, and of two kinds of green grass."""

SPEED = {"weak": 0.28, "strong": 0.62}
LEVEL = {"weak": 0.012, "strong": 0.06}
GRAINS_PER_SECOND, GRAIN_SECONDS = 28, 0.018


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Frames (T, H, W, 3) and sound (2, N)."""
    rng = canvas.rng
    horizon = rng.uniform(0.36, 0.46)
    upright, bent = (np.array(c, np.float32) for c in _grass(spec))
    light = np.array(LIGHT[spec.time_of_day], np.float32)
    gust_texture, way = fractal(rng, 128, slope=1.7, lowest=2), float(rng.choice([-1, 1]))
    gust = _gusts(spec, canvas, gust_texture, horizon, way)
    lean = gust * (1.0 if spec.strength == "strong" else 0.45)
    blades = _blades(canvas, horizon)
    shade = np.clip(0.42 + 0.34 * lean + 0.16 * blades, 0, 1)
    field = (upright + (bent - upright) * shade[..., None]) * light * _depth_light(canvas, horizon)
    back = _backdrop(spec, canvas, horizon, light)
    _, y = canvas.grid
    frames = over(back, field, np.broadcast_to(smoothstep(-0.004, 0.004, y - horizon), shade.shape))
    stalks = np.clip(_stalks(spec, canvas, lean, way), 0, 1)
    frames = over(frames, (0.45 * upright + 0.4 * bent) * light, stalks)
    return Clip(np.clip(frames, 0, 1), _sound(spec, canvas, gust))


def is_wheat(spec: SceneSpec) -> bool:
    """Whether the field is ripe wheat, a third of the seeds; else it is green grass."""
    return spec.seed % 3 == 0


def _grass(spec: SceneSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return WHEAT if is_wheat(spec) else GREEN[spec.seed % 3 - 1]


def _gusts(spec: SceneSpec, canvas: Canvas, texture: Field, horizon: float, way: float) -> Field:
    """Strength of the wind at each point of the ground, about -1 to 2, (T, H, W); bands that run along x."""
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, canvas.rng)
    x, y = half.grid
    depth = 0.3 / (np.maximum(y - horizon, 0.0) + 0.12)
    moved = -way * SPEED[spec.strength] * half.seconds[:, None, None]
    across = 0.42 * (x - 0.5) * depth + 0.35 * moved + canvas.rng.random()
    along = 0.25 * depth + 0.06 * half.seconds[:, None, None] * SPEED[spec.strength]
    return doubled(np.clip(sample(texture, across.astype(np.float32), along.astype(np.float32)), -1.2, 2.0))


def _blades(canvas: Canvas, horizon: float) -> Field:
    """Fixed upright streaks that get finer towards the horizon, (H, W)."""
    x, y = canvas.grid
    depth = 0.3 / (np.maximum(y - horizon, 0.0) + 0.12)
    streaks = fractal(canvas.rng, 256, slope=0.6, lowest=8)
    return np.tanh(sample(streaks, (x - 0.5) * depth * 0.9 + 0.5, 0.35 * depth)).astype(np.float32)


def _depth_light(canvas: Canvas, horizon: float) -> Field:
    """Paler far away, darker at the viewer's feet, (H, 1, 1)."""
    _, y = canvas.grid
    return (1.08 - 0.38 * np.clip((y - horizon) / (1 - horizon), 0, 1) ** 1.5)[..., None].astype(np.float32)


def _backdrop(spec: SceneSpec, canvas: Canvas, horizon: float, light: Field) -> Field:
    """Sky, a low sun at sunset, far hills and sometimes a tree, (H, W, 3)."""
    rng = canvas.rng
    x, y = canvas.grid
    back = sky(canvas, spec.time_of_day, horizon)
    puffs = smoothstep(0.6, 1.8, sample(fractal(rng, 128, slope=1.9), 0.8 * x, 1.6 * y))
    back = over(back, np.minimum(np.array([1.0, 0.98, 0.96], np.float32) * (0.25 + 0.8 * light), 1), 0.55 * puffs)
    if spec.time_of_day == "sunset":
        away = np.hypot(x - rng.uniform(0.2, 0.8), y - horizon + 0.05)
        back = over(
            back,
            np.array([1.0, 0.86, 0.5], np.float32),
            np.maximum(smoothstep(0.065, 0.055, away), 0.6 * np.exp(-away / 0.12)),
        )
    hills = ridge(rng, x[0], horizon - 0.02, 0.025)
    back = over(back, np.array([0.28, 0.40, 0.30], np.float32) * light, smoothstep(-0.004, 0.004, y - hills[None]))
    if rng.random() < 0.6:
        back = over(back, np.array([0.10, 0.2, 0.07], np.float32) * (0.3 + 0.7 * light), _tree(canvas, horizon))
    return back


def _tree(canvas: Canvas, horizon: float) -> Field:
    """Silhouette of one round tree on the horizon, (H, W)."""
    rng = canvas.rng
    x, y = canvas.grid
    centre, height = rng.uniform(0.12, 0.88), rng.uniform(0.16, 0.26)
    rough = 0.14 * sample(fractal(rng, 64, slope=1.3), 3 * x, 3 * y)
    crown = np.hypot((x - centre) / (0.5 * height), (y - horizon + 0.62 * height) / (0.42 * height)) + rough
    trunk = (np.abs(x - centre) < 0.04 * height + 0.003) & (y > horizon - 0.4 * height) & (y < horizon + 0.005)
    return np.maximum(smoothstep(1.05, 0.9, crown), trunk.astype(np.float32))


def _stalks(spec: SceneSpec, canvas: Canvas, lean: Field, way: float) -> Field:
    """Opacity of the stalks with ears at the viewer's feet, bent by the gust around them, (T, H, W)."""
    rng, count, parts = canvas.rng, 46, 22
    root, tall = rng.random(count), rng.uniform(0.16, 0.34, count)
    column = np.clip((root * canvas.size).astype(int), 0, canvas.size - 1)
    wind = lean[:, int(0.9 * canvas.size), :][:, column]
    flutter = 0.12 * np.sin(2 * np.pi * (canvas.seconds[:, None] * rng.uniform(0.7, 1.3, count) + rng.random(count)))
    bend = way * (0.25 + 0.55 * np.maximum(wind, -0.3)) + flutter * (1.0 if spec.strength == "strong" else 0.5)
    along = np.linspace(0, 1, parts)
    x = root[None, :, None] + (0.6 * bend * tall)[..., None] * along**2
    y = 1.01 - tall[None, :, None] * along * (1 - 0.12 * np.square(bend)[..., None] * along)
    width = np.where(along > 0.78, 2.1, 1.0) * canvas.size / 256
    frame = np.broadcast_to(np.arange(canvas.num_frames)[:, None, None], x.shape)
    radius = np.broadcast_to(width, x.shape).ravel()
    return splat(
        frame.ravel(), x.ravel(), y.ravel(), radius, np.full(x.size, 0.5), canvas.num_frames, canvas.size, reach=3
    )


def _sound(spec: SceneSpec, canvas: Canvas, gust: Field) -> Field:
    """Stalks that brush each other, the more the harder the gust over the near field on that side, (2, N)."""
    near, middle = gust[:, int(0.6 * canvas.size) :], canvas.size // 2
    sides = []
    for part in (near[:, :, :middle], near[:, :, middle:]):
        follow = canvas.frame_envelope(np.exp(1.3 * part.mean(axis=(1, 2))))
        rustle = noise_band(canvas.rng, canvas.num_samples, 2000, 6500, tilt=-1)
        sides.append(rustle * _grains(canvas.rng, follow))
    return np.tanh(LEVEL[spec.strength] * np.stack(sides)).astype(np.float32)


def _grains(rng: np.random.Generator, follow: Field) -> Field:
    """Envelope of many short touches, of which ``follow`` (N,) gives number and strength, (N,)."""
    touches = (rng.random(len(follow)) < np.minimum(follow, 4) * GRAINS_PER_SECOND / SAMPLE_RATE) * rng.exponential(
        1.0, len(follow)
    )
    fade = np.exp(-1 / (GRAIN_SECONDS * SAMPLE_RATE))
    return (signal.lfilter([1.0], [1.0, -fade], touches) * np.sqrt(follow)).astype(np.float32)
