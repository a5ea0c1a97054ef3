"""Cumulus clouds drifting over open country.

Each cloud is a heap of round domes on a flat base (warm air condenses above one height), lit from the side of the sun.
Clouds near the horizon are far away: smaller and slower. One wind speed moves the clouds and makes the sound: a soft,
very low thrum whose level follows the gusts.
"""

from __future__ import annotations

import numpy as np

from training.scenes.base import (
    LIGHT,
    Canvas,
    Clip,
    Field,
    SceneSpec,
    diffuse,
    fractal,
    limit,
    over,
    ramp,
    sample,
    sky,
    slow_noise,
    smoothstep,
)

FAMILY = "clouds"
VARIES = frozenset({"time_of_day", "strength"})
SUBJECTS = (
    "clouds drifting across the sky",
    "cumulus clouds over green country",
    "white clouds moving over the horizon",
)

LIT = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.74, 0.52), "night": (0.3, 0.35, 0.48)}
SHADED = {"day": (0.62, 0.7, 0.82), "sunset": (0.46, 0.28, 0.42), "night": (0.07, 0.09, 0.16)}


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Weak: clouds crawl and the air is nearly still. Strong: they race and the wind is heard."""
    rng = canvas.rng
    strong = spec.strength == "strong"
    gust = 1 + (0.3 if strong else 0.15) * slow_noise(rng, canvas.num_frames, 0.6 * canvas.fps)
    speed = (rng.uniform(0.16, 0.22) if strong else rng.uniform(0.035, 0.05)) * np.maximum(gust, 0.3)
    carried = np.cumsum(speed) / canvas.fps * rng.choice((-1, 1))
    horizon = rng.uniform(0.8, 0.88)
    frames = np.repeat(sky(canvas, spec.time_of_day, horizon)[None], canvas.num_frames, axis=0)
    for height, scale, count in ((0.68, 0.32, 9), (0.5, 0.6, 6), (0.26, 1.0, 3)):
        cover, tone = _heaps(canvas, height * horizon / 0.85, scale, count, light_from=rng.choice((-1, 1)))
        colour = ramp(tone, (0.0, SHADED[spec.time_of_day]), (1.0, LIT[spec.time_of_day]))
        for frame in range(canvas.num_frames):
            left = (carried[frame] * scale * 1.3 * canvas.size) % cover.shape[1]
            alpha, paint = _window(cover, left, canvas.size), _window(colour, left, canvas.size)
            frames[frame] = over(frames[frame], paint, alpha)
    frames = over(frames, *_country(spec, canvas, horizon))
    return Clip(np.clip(frames, 0, 1).astype(np.float32), _sound(canvas, gust, strong))


def _heaps(canvas: Canvas, height: float, scale: float, count: int, light_from: float) -> tuple[Field, Field]:
    """A sheet of clouds two pictures wide that tiles sideways: coverage and brightness in [0, 1], (H, 2 W)."""
    rng, size = canvas.rng, canvas.size
    x = ((np.arange(2 * size) + 0.5) / size).astype(np.float32)[None, :]
    _, y = canvas.grid
    texture = fractal(rng, 256, 1.7, 2)
    ragged = 0.12 * scale * sample(texture, x * 1.5, y * 1.5)
    cover, tone = np.zeros((size, 2 * size), np.float32), np.zeros((size, 2 * size), np.float32)
    for i in range(count):
        middle = (i + rng.uniform(0.2, 0.8)) * 2 / count
        base = height + scale * rng.uniform(-0.04, 0.06)
        wide = scale * rng.uniform(0.16, 0.28)
        for _ in range(9):
            along = rng.uniform(-1, 1)
            radius = wide * (0.5 - 0.26 * abs(along)) * rng.uniform(0.8, 1.15)
            up = base - radius * 0.45 - wide * 0.45 * (1 - abs(along)) * rng.random()
            aside = (x - middle - along * wide + 1) % 2 - 1
            reach = np.hypot(aside, y - up) / radius - 0.45 * ragged / scale
            dome = smoothstep(1.06, 0.86, reach) * smoothstep(0.02, -0.03, (y - base) / scale - 0.12 * ragged)
            lit = 0.62 - 0.45 * (y - up) / radius + 0.22 * light_from * aside / radius + 0.5 * ragged / scale
            lit *= 0.45 + 0.55 * smoothstep(0.0, 0.5 * wide, base - y)
            tone += (np.clip(lit, 0, 1) - tone) * dome
            cover = np.maximum(cover, dome)
    return cover.astype(np.float32), tone.astype(np.float32)


def _window(sheet: Field, left: float, size: int) -> Field:
    """The part of a tiling sheet that starts ``left`` (fractional) pixels from its edge."""
    whole = int(left)
    columns = (whole + np.arange(size + 1)) % sheet.shape[1]
    part, share = sheet[:, columns], np.float32(left - whole)
    return part[:, :-1] * (1 - share) + part[:, 1:] * share


def _country(spec: SceneSpec, canvas: Canvas, horizon: float) -> tuple[Field, Field]:
    """Colour (H, W, 3) and coverage (H, W) of green hills at the foot of the picture."""
    rng, (x, y) = canvas.rng, canvas.grid
    texture = fractal(rng, 256, 2.0)
    rim = horizon + 0.02 * sample(texture, x * 0.6, np.float32(0.3))
    green = np.array(((0.3, 0.52, 0.2), (0.42, 0.54, 0.2), (0.2, 0.44, 0.22))[int(rng.integers(3))], np.float32)
    light = np.array(LIGHT[spec.time_of_day], np.float32)
    fields = green * light * (0.95 + 0.1 * sample(texture, x, y * 4) - 0.5 * (y - horizon))[..., None]
    return fields.astype(np.float32), smoothstep(-0.006, 0.006, y - rim)


def _sound(canvas: Canvas, gust: Field, strong: bool) -> Field:
    """The soft, very low thrum of high wind, which swells and falls with the gusts, (2, N)."""
    level = np.maximum(canvas.frame_envelope(gust), 0.2) ** 2
    return limit(diffuse(canvas.rng, level, 30, 170, -2) * (0.07 if strong else 0.009))
