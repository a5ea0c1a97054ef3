"""A waterfall: water that accelerates down a cliff into a pool, with mist where it lands.

A parcel that left the lip t seconds ago has fallen as t squared, so the streaks of the column are a texture read at
(x, fall time of this height - clock): they stretch and speed up on the way down. The amount of water (``strength``)
sets the width of the column, the mist and the level of the roar, which is steady noise placed where the water lands.
"""

from __future__ import annotations

import numpy as np

from training.scenes.base import (
    DISTANCE_GAIN,
    LIGHT,
    SIDE_POSITION,
    Canvas,
    Clip,
    Field,
    SceneSpec,
    diffuse,
    enlarge,
    fractal,
    limit,
    lowpass,
    noise_band,
    over,
    pan,
    ramp,
    sample,
    sky,
    slow_noise,
    smoothstep,
)

FAMILY = "waterfall"
VARIES = frozenset({"time_of_day", "distance", "side", "strength"})
SUBJECTS = ("a waterfall", "a waterfall plunging into a pool", "water falling down a rocky cliff")


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Near: the cliff fills the picture. Far: a small fall in a landscape under the sky."""
    rng = canvas.rng
    near, strong = spec.distance == "near", spec.strength == "strong"
    place = SIDE_POSITION[spec.side] + rng.uniform(-0.04, 0.04)
    top, foot = (
        (rng.uniform(0.07, 0.12), rng.uniform(0.74, 0.79))
        if near
        else (rng.uniform(0.33, 0.38), rng.uniform(0.66, 0.7))
    )
    width = (0.15 if near else 0.058) * (1.0 if strong else 0.42)
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    still = _cliff(spec, half, top, foot, place, near)
    light = 0.28 + 0.72 * _light(spec)
    frames = over(still, *_pool(half, light, foot, place, width))
    frames = over(frames, *_column(half, light, top, foot, place, width))
    frames = over(frames, np.minimum(light * 0.97, 1.0), _mist(half, foot, place, width, strong))
    return Clip(np.clip(enlarge(frames.astype(np.float32)), 0, 1), _sound(spec, canvas, place))


def _light(spec: SceneSpec) -> Field:
    """Light on the scene, (3,): at night a bright moon, or the rock would be black."""
    return np.array(LIGHT[spec.time_of_day], np.float32) * (2.0 if spec.time_of_day == "night" else 1.0)


def _cliff(spec: SceneSpec, canvas: Canvas, top: float, foot: float, place: float, near: bool) -> Field:
    """Sky, rock with green ledges that dips where the water leaves it, and the bank below, (h, w, 3)."""
    rng, (x, y) = canvas.rng, canvas.grid
    light = _light(spec)
    texture, coarse = fractal(rng, 256, 1.3, 3), fractal(rng, 256, 1.8, 1)
    picture = sky(canvas, spec.time_of_day, top + 0.25)
    dip = 0.03 * np.exp(-(((x - place) / 0.1) ** 2))
    slope = 0.25 * np.maximum(np.abs(x - place) - 0.28, 0) if not near else 0.0
    rim = top - 0.03 + dip + slope + 0.02 * sample(coarse, x * 0.8, np.float32(0.4))
    cracks = sample(texture, x * 0.9, y * 0.28) + 0.6 * sample(coarse, x, y * 0.8)
    grey = np.array(((0.4, 0.39, 0.37), (0.46, 0.4, 0.34), (0.34, 0.37, 0.4))[int(rng.integers(3))], np.float32)
    rock = grey * (0.85 + 0.24 * cracks)[..., None]
    green = np.array((0.2, 0.42, 0.14), np.float32) * (0.9 + 0.2 * sample(texture, x, y))[..., None]
    ledges = smoothstep(
        0.3,
        0.8,
        sample(coarse, x * 1.2, y * 2.4 + 0.3) + 0.7 * smoothstep(0.06, 0.0, y - rim) + 0.5 * np.abs(x - place),
    )
    wall = over(rock, green, 0.9 * ledges * smoothstep(0.02, 0.1, np.abs(x - place)))
    shadow = 1 - 0.35 * smoothstep(0.0, 1.0, (y - rim) / (foot - top)) * smoothstep(0.5, 0.1, np.abs(x - place))
    picture = over(picture, (wall * light * shadow[..., None]).astype(np.float32), smoothstep(-0.01, 0.01, y - rim))
    bank = foot + 0.015 * sample(coarse, x * 0.7, np.float32(0.9)) + 0.0 * y
    meadow = np.array((0.24, 0.45, 0.16), np.float32) * light * (0.9 + 0.12 * sample(texture, x, y * 3))[..., None]
    return over(picture, meadow.astype(np.float32), smoothstep(-0.008, 0.008, y - bank))


def _column(canvas: Canvas, light: Field, top: float, foot: float, place: float, width: float) -> tuple[Field, Field]:
    """Colour (T, h, w, 3) and coverage (T, h, w) of the falling water."""
    rng, (x, y) = canvas.rng, canvas.grid
    t = canvas.seconds[:, None, None]
    fallen = np.clip((y - top) / (foot - top), 0, 1)
    time = np.sqrt(0.02 + fallen)
    texture = fractal(rng, 256, 1.5, 4)
    across = (x - place) / width
    streak = sample(texture, 0.22 * across + 0.5, 0.55 * time - 0.42 * t) + 0.6 * sample(
        texture, 0.55 * across, 0.9 * time - 0.7 * t
    )
    spread = 0.8 + 0.3 * fallen + 0.07 * streak
    cover = (
        smoothstep(1.05, 0.8, np.abs(across) / spread)
        * smoothstep(-0.012, 0.012, y - top)
        * smoothstep(0.01, -0.015, y - foot)
    )
    white = ramp(streak, (-2.0, (0.5, 0.66, 0.78)), (0.0, (0.84, 0.92, 0.96)), (1.2, (1.0, 1.0, 1.0)))
    return (white * light).astype(np.float32), (cover * (0.88 + 0.1 * np.clip(streak, -1.5, 1))).astype(np.float32)


def _pool(canvas: Canvas, light: Field, foot: float, place: float, width: float) -> tuple[Field, Field]:
    """Colour (T, h, w, 3) and coverage (h, w) of the pool, whose rings run out from where the water lands."""
    rng, (x, y) = canvas.rng, canvas.grid
    t = canvas.seconds[:, None, None]
    depth = y - foot
    away = np.hypot((x - place) / 1.0, depth * 3.0)
    texture = fractal(rng, 256, 1.5, 2)
    wobble = sample(texture, x * 0.8, y * 2)
    rings = np.sin(2 * np.pi * (away * 7 - 1.3 * t) + 1.5 * wobble) * np.exp(-away * 2.0)
    ripple = sample(texture, x / (0.4 + depth * 2) * 0.4, y * 5 - 0.12 * t)
    foam = smoothstep(0.35, 1.1, np.exp(-((away / (1.6 * width)) ** 2)) * 1.3 + 0.25 * ripple)
    water = np.array((0.1, 0.36, 0.4), np.float32) + 0.1 * rings[..., None] + 0.05 * ripple[..., None]
    water = over(water, np.array((0.95, 0.98, 1.0), np.float32), foam) * light
    size = 0.34 + 4 * width
    inside = np.hypot((x - place) / size, (depth - 0.1) / (0.115 if width < 0.07 else 0.16)) + 0.05 * wobble
    return water.astype(np.float32), (smoothstep(1.03, 0.97, inside) * smoothstep(-0.01, 0.005, depth)).astype(
        np.float32
    )


def _mist(canvas: Canvas, foot: float, place: float, width: float, strong: bool) -> Field:
    """Opacity of the spray that billows up from the foot, (T, h, w)."""
    rng, (x, y) = canvas.rng, canvas.grid
    t = canvas.seconds[:, None, None]
    texture = fractal(rng, 256, 1.9, 1)
    billow = sample(texture, 0.5 * (x - place) / (width + 0.08), 0.35 * (y - foot) / (width + 0.08) + 0.16 * t)
    wide, high = 1.5 * width + 0.03, (0.11 if strong else 0.06) * (width / 0.15) ** 0.5 + 0.03
    cloud = np.exp(-(((x - place) / wide) ** 2) - ((y - foot + 0.3 * high) / high) ** 2)
    return (cloud * np.clip(0.72 + 0.3 * billow, 0, 1) * (0.95 if strong else 0.7)).astype(np.float32)


def _sound(spec: SceneSpec, canvas: Canvas, place: float) -> Field:
    """A steady roar: deep thunder of the mass of water, bright hiss of its spray, mostly from its side, (2, N)."""
    rng, count = canvas.rng, canvas.num_samples
    strong = spec.strength == "strong"
    steady = 1 + 0.06 * canvas.frame_envelope(slow_noise(rng, canvas.num_frames, 3))
    roar = noise_band(rng, count, 60 if strong else 220, 11_000, -3) + 0.5 * noise_band(rng, count, 1500, 12_000, -2)
    if strong:
        roar += 0.5 * noise_band(rng, count, 40, 250, -2)
    sound = pan(0.85 * roar * steady, place) + diffuse(rng, 0.3 * steady, 100, 8000, -3)
    sound *= (0.16 if strong else 0.055) * DISTANCE_GAIN[spec.distance]
    return limit(lowpass(sound, 2800) if spec.distance == "far" else sound)
