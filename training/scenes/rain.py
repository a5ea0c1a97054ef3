"""A thunderstorm over open country: driven rain, low clouds, lightning and its thunder.

Drops fall at one speed per depth, so near streaks are longer and faster than far ones. A bolt lights the clouds in the
frame in which it strikes; sound needs 3 s a kilometre, so its thunder starts 0.25 s later when the storm is near and
1.5 s later when it is far, duller and softer by then. The amount of rain (``strength``) sets streaks and hiss alike.
Over another scene it rains without a storm: streaks, drops and hiss, and a duller light.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from training.scenes.base import (
    DISTANCE_GAIN,
    LIGHT,
    SIDE_POSITION,
    Canvas,
    Clip,
    Event,
    Field,
    SceneSpec,
    add_at,
    decay,
    diffuse,
    dots,
    fractal,
    limit,
    noise_band,
    over,
    pan,
    polygons,
    sample,
    slow_noise,
    smoothstep,
)

FAMILY = "rain"
VARIES = frozenset({"distance", "side", "strength"})
SUBJECTS = ("a thunderstorm", "a rainstorm with lightning", "heavy clouds with rain and lightning")

THUNDER_DELAY = {"near": 0.25, "far": 1.5}
"""Seconds between a flash and its thunder."""

FLASH_SHAPE = (1.0, 0.75, 0.3, 0.6, 0.35, 0.18, 0.08)
"""Brightness of the frames from a strike on: the return stroke, a second stroke, the afterglow."""

BOLT = np.array((0.93, 0.92, 1.0), np.float32)
RAIN = np.array((0.72, 0.78, 0.88), np.float32)
GROUND = 0.6
"""y below which drops splash over another scene."""


def render(spec: SceneSpec, canvas: Canvas, background: Clip | None = None) -> Clip:
    """Rain over a dark landscape with strikes at ``side``; ``distance`` is that of the lightning.

    Over a ``background`` there is rain alone, which is heard as loudly as by itself beside the background's own sound.
    """
    rng = canvas.rng
    if background is not None:
        return _veil(spec, canvas, background)
    place = SIDE_POSITION[spec.side] + rng.uniform(-0.06, 0.06)
    horizon = rng.uniform(0.68, 0.76)
    strikes = _strikes(canvas, spec.distance)
    shade = _country(canvas, horizon)
    frames = _clouds(canvas, horizon, strikes, place, spec.distance)
    for start in strikes:
        bolt = _bolt(canvas, place + rng.uniform(-0.04, 0.04), horizon, spec.distance)
        for frame, light in _lit(canvas, start):
            if light > 0.25:
                frames[frame] = over(frames[frame], BOLT, np.minimum(bolt * light, 1.0))
    flash = _flash(canvas, strikes) * (1.0 if spec.distance == "near" else 0.5)
    land = np.array((0.05, 0.065, 0.06), np.float32) + flash[:, None, None, None] * np.array(
        (0.16, 0.17, 0.22), np.float32
    )
    frames = over(frames, land, shade)
    _rain(frames, canvas, spec.strength == "strong", horizon, RAIN * (0.85 + 0.3 * flash[:, None]))
    delay = round(THUNDER_DELAY[spec.distance] * canvas.fps)
    heard = [frame + delay for frame in strikes if frame + delay < canvas.num_frames]
    events = [Event(frame, "thunder", place) for frame in heard]
    return Clip(np.clip(frames, 0, 1).astype(np.float32), _sound(spec, canvas, heard, place), events)


def _veil(spec: SceneSpec, canvas: Canvas, background: Clip) -> Clip:
    """Another scene in the rain: less colour and contrast, the more so the heavier the rain."""
    strong = spec.strength == "strong"
    light = 0.25 + 0.75 * np.array(LIGHT[spec.time_of_day], np.float32)
    scene = background.frames
    shaded = 1 - smoothstep(0.3, 0.7, scene[..., 0] - scene[..., 2])  # fire and a low sun shine through
    dull = over(scene, scene.mean(axis=-1, keepdims=True), (0.4 if strong else 0.2) * shaded)
    frames = over(dull, 0.42 * RAIN * light, (0.34 if strong else 0.18) * (0.25 + 0.75 * shaded))
    _rain(frames, canvas, strong, GROUND, np.broadcast_to(RAIN * light, (canvas.num_frames, 3)))
    sound = _sound(spec, canvas, [], 0.5) + background.sound
    return Clip(np.clip(frames, 0, 1).astype(np.float32), limit(sound), background.events)


def _strikes(canvas: Canvas, distance: str) -> list[int]:
    """Frames of the strikes: one or two, early enough for their thunder to be heard within the clip."""
    last = max(1.0, canvas.num_frames - (THUNDER_DELAY[distance] + 0.6) * canvas.fps)
    first = canvas.rng.uniform(0.05, 0.5) * last
    second = first + canvas.rng.uniform(1.4, 2.2) * canvas.fps
    return [int(first)] + ([int(second)] if second < last else [])


def _lit(canvas: Canvas, start: int) -> list[tuple[int, float]]:
    return [(start + i, light) for i, light in enumerate(FLASH_SHAPE) if start + i < canvas.num_frames]


def _flash(canvas: Canvas, strikes: list[int]) -> Field:
    """Light of all strikes per frame, (T,)."""
    light = np.zeros(canvas.num_frames, np.float32)
    for start in strikes:
        for frame, share in _lit(canvas, start):
            light[frame] = max(light[frame], share)
    return light


def _clouds(canvas: Canvas, horizon: float, strikes: list[int], place: float, distance: str) -> Field:
    """Dark drifting clouds, lit from within around the strike, (T, H, W, 3)."""
    rng, (x, y) = canvas.rng, canvas.grid
    texture = fractal(rng, canvas.size, 1.7, 1)
    drift = rng.uniform(0.015, 0.04) * rng.choice((-1, 1))
    flash = _flash(canvas, strikes)
    reach = 0.6 if distance == "near" else 0.3
    around = np.exp(-((x - place) ** 2 + 0.5 * (y - 0.3) ** 2) / reach**2)
    low, high = np.array((0.07, 0.085, 0.12), np.float32), np.array((0.27, 0.31, 0.38), np.float32)
    frames = np.empty((canvas.num_frames, canvas.size, canvas.size, 3), np.float32)
    for frame, second in enumerate(canvas.seconds):
        billow = smoothstep(-1.8, 2.0, sample(texture, x * 0.7 + drift * second, y * 1.5))
        tone = np.clip(0.65 * billow + 0.45 * smoothstep(0.1, horizon, y), 0, 1)
        glow = flash[frame] * (0.25 + 0.75 * around) * (0.45 + 0.65 * billow) * (1.0 if distance == "near" else 0.6)
        frames[frame] = over(np.broadcast_to(low, (*tone.shape, 3)), high, tone) + glow[..., None] * np.array(
            (0.62, 0.6, 0.78), np.float32
        )
    return frames


def _country(canvas: Canvas, horizon: float) -> Field:
    """Coverage of the dark land: a rolling horizon with a house, trees and poles at random, (H, W)."""
    rng, (x, y) = canvas.rng, canvas.grid
    hill = horizon + 0.03 * sample(fractal(rng, 256, 2.0), x * 0.7, np.float32(0.5))
    shapes: list[list[tuple[float, float]]] = []
    if rng.random() < 0.6:
        left, width, base = rng.uniform(0.1, 0.75), rng.uniform(0.11, 0.16), horizon + 0.05
        top = base - 0.75 * width
        shapes.append(
            [
                (left, base),
                (left, top),
                (left + width / 2, top - 0.5 * width),
                (left + width, top),
                (left + width, base),
            ]
        )
    for middle in rng.uniform(0, 1, rng.integers(2, 7)):
        tall = rng.uniform(0.07, 0.16)
        shapes.append(
            [
                (middle - 0.3 * tall, horizon + 0.05),
                (middle, horizon + 0.03 - tall),
                (middle + 0.3 * tall, horizon + 0.05),
            ]
        )
    return np.maximum(smoothstep(-0.006, 0.006, y - hill), polygons(canvas.size, shapes)).astype(np.float32)


def _bolt(canvas: Canvas, place: float, horizon: float, distance: str) -> Field:
    """A jagged bolt with branches by midpoint displacement, with its glow, (H, W)."""
    rng, near = canvas.rng, distance == "near"
    top = 0.0 if near else horizon - rng.uniform(0.34, 0.42)
    path = _jag(rng, np.array((place + rng.uniform(-0.1, 0.1), top)), np.array((place, horizon + 0.02)))
    lines = [(path, 1.0)]
    for _ in range(4 if near else 2):
        start = path[int(rng.integers(len(path) // 6, 2 * len(path) // 3))]
        end = start + (horizon - top) * np.array((rng.uniform(-0.35, 0.35), rng.uniform(0.15, 0.35)))
        lines.append((_jag(rng, start, end), 0.5))
    spots = [
        (np.stack([np.interp(np.linspace(0, 1, 500), np.linspace(0, 1, len(p)), p[:, i]) for i in (0, 1)]), w)
        for p, w in lines
    ]
    x, y = (np.concatenate([points[i] for points, _ in spots]) for i in (0, 1))
    weight = np.concatenate([np.full(500, w) for _, w in spots]).astype(np.float32)
    unit = canvas.size / 256 * (1.0 if near else 0.6)
    core = dots(canvas.size, x, y, weight, 1.1 * unit)
    return np.minimum(core, 1.2) + 0.5 * np.minimum(ndimage.gaussian_filter(np.minimum(core, 1.0), 5 * unit) * 4, 1.0)


def _jag(rng: np.random.Generator, start: Field, end: Field) -> Field:
    """Points of a random path between two points, (33, 2)."""
    points = np.stack([start, end])
    for _ in range(5):
        length = np.hypot(*(points[1:] - points[:-1]).T)
        middle = 0.5 * (points[1:] + points[:-1])
        middle[:, 0] += 0.22 * length * rng.standard_normal(len(middle))
        points = np.insert(points, np.arange(1, len(points)), middle, axis=0)
    return points


def _rain(frames: Field, canvas: Canvas, strong: bool, horizon: float, colour: Field) -> None:
    """Draws three depths of falling streaks and splashes below ``horizon``, in place; ``colour`` is (T, 3)."""
    rng, size = canvas.rng, canvas.size
    slant = rng.uniform(-0.3, 0.3)
    unit = size / 256
    for depth, (length, speed, alpha) in enumerate(((9, 0.75, 0.28), (17, 1.2, 0.34), (30, 1.8, 0.42))):
        count = int(((420, 200, 70) if strong else (150, 55, 16))[depth])
        tile = _streaks(rng, size, count, length * unit, slant, (0.5, 0.65, 0.9)[depth] * unit)
        step = speed * size / canvas.fps
        for frame in range(canvas.num_frames):
            down = round(frame * step)
            moved = np.roll(tile, (down, round(down * slant)), axis=(0, 1))
            frames[frame] = over(frames[frame], colour[frame], alpha * moved)
    splashes = 40 if strong else 10
    for frame in range(canvas.num_frames):
        y = horizon + 0.06 + (0.94 - horizon) * rng.random(splashes)
        spot = dots(size, rng.random(splashes), y, rng.uniform(0.15, 0.5, splashes), 0.9 * unit)
        frames[frame] = over(frames[frame], colour[frame], np.minimum(spot, 0.6))
    if strong:
        frames += 0.03 * colour.mean(axis=0)


def _streaks(rng: np.random.Generator, size: int, count: int, length: float, slant: float, sigma: float) -> Field:
    """A tileable sheet of slanted streaks in [0, 1], (size, size)."""
    steps = np.arange(int(length) * 2) / 2
    x = (rng.random((count, 1)) * size + slant * steps) % size
    y = (rng.random((count, 1)) * size + steps) % size
    weight = np.broadcast_to(
        rng.uniform(0.4, 1.0, (count, 1)) * np.sin(np.pi * (steps + 0.5) / (length + 1)).clip(0), x.shape
    )
    sheet = np.zeros(size * size, np.float32)
    sheet += np.bincount((y.astype(int) * size + x.astype(int)).ravel(), weight.ravel(), size * size).astype(np.float32)
    return np.minimum(ndimage.gaussian_filter(sheet.reshape(size, size), sigma, mode="wrap") * 1.6, 1.0)


def _sound(spec: SceneSpec, canvas: Canvas, heard: list[int], place: float) -> Field:
    """Hiss of the rain all around, drops close by, and thunder from the side of the strike, (2, N)."""
    rng, count = canvas.rng, canvas.num_samples
    strong = spec.strength == "strong"
    level = (0.055 if strong else 0.013) * (1 + 0.12 * canvas.frame_envelope(slow_noise(rng, canvas.num_frames, 6)))
    sound = diffuse(rng, level, 500, 13_000, -2.5)
    for _ in range(int((14 if strong else 8) * count / 48_000)):
        drop = (
            noise_band(rng, 1200, 1500, 9000)
            * decay(1200, 0.0005, 0.005)
            * rng.uniform(0.2, 1.0)
            * (0.1 if strong else 0.04)
        )
        add_at(sound, int(rng.integers(count)), pan(drop, float(rng.random())))
    for frame in heard:
        add_at(sound, canvas.sample_of(frame), pan(_thunder(rng, spec.distance), place))
    return limit(sound)


def _thunder(rng: np.random.Generator, distance: str) -> Field:
    """Near: a crack, then a rumble of several claps. Far: a soft rumble without highs. (N,)."""
    count = 48_000 * 4
    rumble = noise_band(rng, count, 28, 350 if distance == "near" else 160, -4)
    shape = decay(count, 0.008 if distance == "near" else 0.05, 0.9)
    for _ in range(5):
        add_at(shape, int(rng.uniform(0.2, 1.6) * 48_000), rng.uniform(0.3, 0.8) * decay(count, 0.05, 0.35))
    sound = 0.28 * rumble * shape
    if distance == "near":
        sound += 0.42 * noise_band(rng, count, 150, 9000, -4) * decay(count, 0.001, 0.12)
        return sound
    return sound * DISTANCE_GAIN["far"] * 1.3
