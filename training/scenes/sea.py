"""Waves rolling onto a beach, seen from the sand.

The sea is a plane in perspective: a row y below the horizon lies at distance 1 / (y - horizon), and swell crests are
lines of constant distance that travel towards the viewer. Every few seconds a crest reaches the shallows, breaks, and
its foam runs up the sand and drains back. The position of that water line (``_run``) gives the picture of the foam,
and its breaking gives the sound: a swell while it nears, a crash when it reaches the shore, a hiss while it drains.
"""

from __future__ import annotations

import numpy as np

from training.scenes.base import (
    DISTANCE_GAIN,
    LIGHT,
    SKIES,
    Canvas,
    Clip,
    Event,
    Field,
    SceneSpec,
    diffuse,
    enlarge,
    fractal,
    limit,
    lowpass,
    over,
    sample,
    sky,
    smoothstep,
)

FAMILY = "sea"
VARIES = frozenset({"time_of_day", "distance", "strength"})
SUBJECTS = ("waves on a beach", "the sea rolling onto a sandy shore", "ocean waves")

WATER = {"day": (0.05, 0.38, 0.52), "sunset": (0.2, 0.2, 0.33), "night": (0.015, 0.045, 0.1)}
SHALLOW = {"day": (0.3, 0.72, 0.7), "sunset": (0.6, 0.42, 0.4), "night": (0.05, 0.1, 0.16)}
GLITTER = {"day": (1.0, 1.0, 0.95), "sunset": (1.0, 0.72, 0.36), "night": (0.75, 0.8, 0.9)}
FOAM = {"day": (0.97, 0.98, 0.98), "sunset": (1.0, 0.84, 0.76), "night": (0.42, 0.48, 0.58)}
SAND = ((0.86, 0.75, 0.55), (0.78, 0.66, 0.48), (0.9, 0.82, 0.66))


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Waves in the light of ``time_of_day``; near: the water fills the picture, far: the shore lies beyond the sand."""
    rng = canvas.rng
    near, strong = spec.distance == "near", spec.strength == "strong"
    horizon = rng.uniform(0.3, 0.4)
    shore = rng.uniform(0.72, 0.76) if near else horizon + rng.uniform(0.15, 0.18)
    reach = (0.2 if near else 0.09) * (1.0 if strong else 0.55)
    run_up = (0.22 if near else 0.07) * (1.0 if strong else 0.7)
    period = rng.uniform(2.4, 3.2) * (1.0 if strong else 1.25)
    crashes = _crashes(canvas, period)
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    land, water = _land(spec, half, horizon), _water(spec, half, horizon, shore, strong)
    edge, cover, wet = _surf(half, crashes, period, shore, reach, run_up)
    _, y = half.grid
    frames = over(land, 0.62 * land, wet * (y > horizon))
    sheet = smoothstep(-0.006, 0.006, edge - y) * (0.45 + 0.55 * smoothstep(0.0, 0.8 * run_up, edge - y))
    frames = over(frames, water, sheet * smoothstep(-0.006, 0.006, y - horizon))
    frames = over(frames, np.array(FOAM[spec.time_of_day], np.float32), cover)
    events = [Event(frame, "wave", 0.5) for frame in crashes if 0 <= frame < canvas.num_frames]
    return Clip(np.clip(enlarge(frames.astype(np.float32)), 0, 1), _sound(spec, canvas, crashes, period), events)


def _crashes(canvas: Canvas, period: float) -> list[int]:
    """Frames at which a breaker reaches the shore, from one before the clip to one after it."""
    first = canvas.rng.uniform(-0.7, 0.25) * period
    count = int(canvas.num_frames / canvas.fps / period) + 3
    times = [first + period * (i + canvas.rng.uniform(-0.1, 0.1)) for i in range(count)]
    return [round(time * canvas.fps) for time in times]


def _land(spec: SceneSpec, canvas: Canvas, horizon: float) -> Field:
    """Sky with sun or moon and clouds above, dry sand below, (h, w, 3)."""
    rng, (x, y) = canvas.rng, canvas.grid
    picture = sky(canvas, spec.time_of_day, horizon)
    texture = fractal(rng, canvas.size, 1.7, 2)
    cloud = smoothstep(0.2, 1.8, sample(texture, x * 0.5, y * 2.0)) * 0.7 * smoothstep(horizon, 0.1, y)
    light = np.array(LIGHT[spec.time_of_day], np.float32)
    picture = over(picture, 0.25 * picture + 0.75 * light, cloud)
    if spec.time_of_day != "day":
        sun_x, sun_y = _sun(spec, horizon)
        away = np.hypot(x - sun_x, y - sun_y)
        colour = np.array(GLITTER[spec.time_of_day], np.float32)
        picture += 0.35 * np.exp(-((away / 0.14) ** 2))[..., None] * colour * light
        picture = over(picture, np.minimum(colour * 1.15, 1.0), smoothstep(0.006, -0.006, away - 0.045))
    sand = np.array(SAND[int(rng.integers(3))], np.float32) * (0.8 * light + 0.2 * light.mean())
    grain = 1 + 0.05 * sample(fractal(rng, canvas.size, 1.2), x, y * 2)
    return over(picture, sand * grain[..., None], (y > horizon) & (x > -1)).astype(np.float32)


def _sun(spec: SceneSpec, horizon: float) -> tuple[float, float]:
    """Position of the sun or moon: low at sunset, high at night; varies with the seed."""
    where = np.random.default_rng(spec.seed).uniform(0.25, 0.75)
    return float(where), horizon - (0.05 if spec.time_of_day == "sunset" else 0.2)


def _water(spec: SceneSpec, canvas: Canvas, horizon: float, shore: float, strong: bool) -> Field:
    """Colour of the open water with travelling crests, whitecaps and glitter, (T, h, w, 3)."""
    rng, (x, y) = canvas.rng, canvas.grid
    t = canvas.seconds[:, None, None]
    depth = np.maximum(y - horizon, 0.5 / canvas.size)
    far = (shore - horizon) / depth
    texture = fractal(rng, 256, 1.4, 2)
    wander = sample(texture, (x - 0.5) * far * 0.12, far * 0.05 + 0 * x)
    phase = 2 * np.pi * (far * 1.1 + 0.42 * t) + 1.6 * wander
    crest = (0.5 + 0.5 * np.cos(phase)) ** 3 * smoothstep(0.0, 0.05, depth)
    ripple = sample(texture, (x - 0.5) * far * 0.5 + 0.02 * t, far * 0.9 + 0.3 * t)
    tone = 0.25 * smoothstep(0.0, 0.8 * (shore - horizon), depth) + (0.5 if strong else 0.36) * crest + 0.07 * ripple
    deep = 0.75 * np.array(WATER[spec.time_of_day]) + 0.22 * np.array(SKIES[spec.time_of_day][1])
    water = deep + (np.array(SHALLOW[spec.time_of_day]) - deep) * np.clip(tone, 0, 1)[..., None]
    foam = np.array(FOAM[spec.time_of_day], np.float32)
    if strong:
        water = over(water, foam, 0.8 * smoothstep(0.65, 0.95, crest + 0.18 * ripple - 0.1))
    if spec.time_of_day != "day":
        lane = np.exp(-(((x - _sun(spec, horizon)[0]) / (0.05 + 0.35 * depth)) ** 2)) * smoothstep(
            -0.2, 1.1, ripple + crest
        )
        water = over(water, np.array(GLITTER[spec.time_of_day]), 0.75 * lane)
    return water.astype(np.float32)


def _run(age: Field, period: float) -> Field:
    """Water line of one wave by the seconds since its crash: -1 far out, 0 the shore, 1 the highest on the sand."""
    rise, drain = 0.22 * period, 0.9 * period
    inward = np.clip(age / (0.45 * period), -1, 0)
    up = np.sin(0.5 * np.pi * np.clip(age / rise, 0, 1))
    back = 0.5 + 0.5 * np.cos(np.pi * np.clip((age - rise) / drain, 0, 1))
    return (inward + up * back).astype(np.float32)


def _surf(
    canvas: Canvas, crashes: list[int], period: float, shore: float, reach: float, run_up: float
) -> tuple[Field, Field, Field]:
    """Water line ``edge``, foam ``cover`` and how wet the sand is, each (T, h, w); edge is a y, others in [0, 1]."""
    rng, (x, y) = canvas.rng, canvas.grid
    t = canvas.seconds[:, None, None]
    texture, smooth = fractal(rng, 256, 1.5, 3), fractal(rng, 256, 2.3, 2)
    fine = max(run_up / 0.2, 0.45)
    lace = smoothstep(-0.4, 0.8, sample(texture, x * 0.9 / fine, y * 2.0 / fine + 0.05 * t))
    edge = np.broadcast_to(shore + 0.12 * run_up * sample(smooth, x * 0.5, np.float32(0.1)), lace.shape).copy()
    cover, wet = np.zeros_like(edge), np.zeros_like(edge)
    for frame in crashes:
        age = t - frame / canvas.fps
        wobble = 0.15 * run_up * sample(smooth, x * 0.6, np.float32(rng.random()))
        run = _run(age, period)
        line = shore + np.where(run < 0, run * reach, run * run_up) + wobble
        landed = np.exp(-np.maximum(age, 0) / (0.5 * period)) * (age > -0.5 / canvas.fps)
        grown = smoothstep(-0.45 * period, -0.15 * period, age)
        thick = run_up * (0.14 + 0.4 * np.exp(-(((age - 0.08 * period) / (0.2 * period)) ** 2)))
        behind = line - y
        front = smoothstep(-0.008, 0.008, behind) * smoothstep(1.4 * thick, 0.5 * thick, behind)
        trail = smoothstep(0.0, 0.01, behind) * smoothstep(run_up + reach, 0.3 * run_up, behind) * lace
        cover = np.maximum(cover, front * grown * np.where(age < 0, 0.95, 0.3 + 0.7 * landed))
        cover = np.maximum(cover, 0.9 * trail * landed)
        edge = np.maximum(edge, np.where(age >= 0, line, 0.0))
        soaked = (
            smoothstep(0.015, -0.015, y - shore - run_up - wobble)
            * (age > 0.2 * period)
            * np.exp(-np.maximum(age, 0) / 6)
        )
        wet = np.maximum(wet, soaked)
    return edge, cover.astype(np.float32), wet.astype(np.float32)


def _sound(spec: SceneSpec, canvas: Canvas, crashes: list[int], period: float) -> Field:
    """Wash of the open sea, and for every breaker a swell, a crash at its frame and a hiss as it drains, (2, N)."""
    rng, count = canvas.rng, canvas.num_samples
    t = np.arange(count, dtype=np.float32) / 48_000
    swell, crash, drain = np.zeros(count, np.float32), np.zeros(count, np.float32), np.zeros(count, np.float32)
    for frame in crashes:
        age = t - canvas.sample_of(frame) / 48_000
        after = np.maximum(age, 0)
        swell += np.exp(np.minimum(age, 0) / (0.16 * period)) * np.exp(-after / 0.5)
        crash += (age >= 0) * np.minimum(after / 0.012, 1) * np.exp(-after / (0.16 * period))
        drain += (age >= 0) * smoothstep(0.0, 0.25 * period, age) * np.exp(-after / (0.35 * period))
    strong = spec.strength == "strong"
    level = (1.0 if strong else 0.4) * (1.0 if spec.distance == "near" else DISTANCE_GAIN["far"])
    sound = diffuse(rng, 0.02 + 0.05 * swell, 60, 1500, -3) + diffuse(rng, 0.3 * crash, 90, 9000, -3)
    sound += diffuse(rng, 0.006 + 0.03 * drain, 2000, 12_000, -2)
    return limit(lowpass(sound, 3500) * level if spec.distance == "far" else sound * level)
