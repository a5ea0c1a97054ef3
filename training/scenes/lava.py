"""An erupting volcano: a fountain over the crater, a stream of lava down the cone, glowing ash above.

The fountain throws clots of lava on ballistic paths; its activity wanders and jumps with each eruption. Activity is
also the light on the ash, the speed of the smoke and the level of rumble and hiss; every eruption is a low boom with
a burst of gas.
"""

from __future__ import annotations

import numpy as np

from training.scenes.base import (
    DISTANCE_GAIN,
    SAMPLE_RATE,
    SIDE_POSITION,
    STRENGTH_GAIN,
    Canvas,
    Clip,
    Event,
    Field,
    SceneSpec,
    add_at,
    decay,
    fractal,
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
from training.scenes.shapes import doubled, splat, star_layers

FAMILY = "lava"
VARIES = frozenset({"time_of_day", "distance", "side", "strength"})
SUBJECTS = (
    "a volcano",
    "an erupting volcano",
    "lava",
    "a volcano with glowing lava",
    "a volcanic eruption",
    "a lava fountain",
)

HEAT = ((0.0, (0.25, 0.01, 0.0)), (0.4, (0.85, 0.12, 0.01)), (0.75, (1.0, 0.5, 0.06)), (1.0, (1.0, 0.9, 0.45)))
"""Colour of lava by temperature, cool to hot."""

CONE = {"near": (0.46, 0.62), "far": (0.62, 0.3)}
"""y of the crater and half the width of the cone's foot."""

ROCK = {"sunset": (0.13, 0.07, 0.08), "night": (0.035, 0.025, 0.035), "day": (0.2, 0.16, 0.15)}


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Frames (T, H, W, 3) and sound (2, N)."""
    rng = canvas.rng
    eruptions, activity = _activity(spec, canvas)
    top, foot = CONE[spec.distance]
    centre, top = SIDE_POSITION[spec.side] + rng.uniform(-0.04, 0.04), top + rng.uniform(-0.03, 0.03)
    frames = _behind(spec, canvas, centre, top, foot, activity)
    frames = over(
        frames, np.array(ROCK[spec.time_of_day], np.float32) * _relief(canvas), _cone(canvas, centre, top, foot)
    )
    heat = _stream(spec, canvas, centre, top, foot, activity)
    frames = over(frames, ramp(heat, *HEAT), smoothstep(0.02, 0.3, heat))
    clots = _fountain(spec, canvas, centre, top, foot, activity)
    frames += clots[..., None] * np.array([1.0, 0.42, 0.1], np.float32) + np.maximum(clots - 0.9, 0)[..., None] * 0.6
    events = [Event(frame, "eruption", centre) for frame in eruptions]
    return Clip(np.clip(frames, 0, 1), _sound(spec, canvas, eruptions, activity, centre), events)


def _activity(spec: SceneSpec, canvas: Canvas) -> tuple[list[int], Field]:
    """Frames of the eruptions, and the fountain's activity (T,) about 0.5 to 1.6."""
    rng = canvas.rng
    gap = canvas.fps * (0.9 if spec.strength == "strong" else 1.7)
    starts = np.arange(rng.uniform(0, 0.8) * gap, canvas.num_frames, gap)
    eruptions = sorted({int(min(max(f + rng.uniform(-0.25, 0.25) * gap, 0), canvas.num_frames - 1)) for f in starts})
    activity = 0.6 + 0.1 * slow_noise(rng, canvas.num_frames, 4)
    for frame in eruptions:
        activity[frame:] += 0.9 * np.exp(-np.arange(canvas.num_frames - frame) / (0.35 * canvas.fps))
    return eruptions, np.clip(activity, 0.25, 2.0).astype(np.float32)


def _profile(canvas: Canvas, centre: float, top: float, foot: float) -> Field:
    """y of the cone's flank per column (W,): concave sides and a flat crater rim."""
    x, _ = canvas.grid
    away = np.maximum(np.abs(x[0] - centre) - 0.13 * foot, 0) / (0.87 * foot)
    return np.minimum(top + (0.93 - top) * np.power(away, 0.75), 0.93).astype(np.float32)


def _cone(canvas: Canvas, centre: float, top: float, foot: float) -> Field:
    _, y = canvas.grid
    rough = 0.006 * sample(fractal(canvas.rng, 128, slope=1.2), canvas.grid[0], 0 * canvas.grid[0])
    return smoothstep(-0.004, 0.004, y - _profile(canvas, centre, top, foot)[None] - rough)


def _relief(canvas: Canvas) -> Field:
    x, y = canvas.grid
    return (1 + 0.3 * sample(fractal(canvas.rng, 128, slope=1.5), 2 * x, 2 * y)).clip(0.3, 2)[..., None]


def _behind(spec: SceneSpec, canvas: Canvas, centre: float, top: float, foot: float, activity: Field) -> Field:
    """Sky with the ash column, lit red from below by the fountain, (T, H, W, 3)."""
    rng = canvas.rng
    clear = sky(canvas, spec.time_of_day, horizon=0.95)
    if spec.time_of_day == "night":
        clear = clear + 0.6 * star_layers(rng, canvas, 60, groups=1)[0][..., None]
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    x, y = half.grid
    scale = foot * (1.0 if spec.strength == "strong" else 0.7)
    height = np.maximum(top + 0.02 - y, 0)
    lean = rng.uniform(-0.35, 0.35)
    width = 0.1 * foot + 0.34 * height * (1.1 if spec.strength == "strong" else 0.75)
    across = (x - centre - lean * height * height / 0.3) / width
    rise = canvas.seconds[:, None, None] * np.float32(0.22 * scale + 0.05)
    puff = sample(fractal(rng, 128, slope=1.7), 0.7 * x / (foot + 0.3), 0.7 * (y + rise) / (foot + 0.3))
    ash = doubled(smoothstep(1.25, 0.5, np.abs(across) + 0.3 * puff) * smoothstep(0.0, 0.03, height))
    lit = doubled(0.55 * np.exp(-height / (0.3 * scale + 0.04)) * activity[:, None, None] * (1 + 0.25 * puff))
    base = np.array(
        {"sunset": (0.2, 0.14, 0.16), "night": (0.05, 0.045, 0.055)}.get(spec.time_of_day, (0.4, 0.38, 0.38)),
        np.float32,
    )
    colour = base + lit[..., None] * np.array([1.0, 0.26, 0.06], np.float32)
    frames = over(clear[None], colour, 0.92 * ash)
    halo = np.exp(-np.hypot(x - centre, y - top) / (0.28 * scale))
    halo = doubled(0.5 * halo * activity[:, None, None])
    return frames + halo[..., None] * np.array([0.85, 0.2, 0.05], np.float32)


def _stream(spec: SceneSpec, canvas: Canvas, centre: float, top: float, foot: float, activity: Field) -> Field:
    """Temperature of the lava on the flank, (T, H, W): a meandering stream that widens and moves downhill."""
    rng = canvas.rng
    x, y = canvas.grid
    down = np.clip((y - top) / (0.93 - top), 0, 1.2)
    branches = 2 if spec.strength == "strong" else 1
    body = np.zeros((canvas.size, canvas.size), np.float32)
    for index in range(branches):
        way = rng.uniform(0.1, 0.3) * (1 if index else -1) * foot
        path = centre + way * down + 0.05 * foot * np.sin(2 * np.pi * (1.3 * down + rng.random())) * down
        width = foot * (0.05 + 0.07 * down) * (1.0 if spec.strength == "strong" else 0.75)
        body = np.maximum(body, smoothstep(1.0, 0.4, np.abs(x - path) / width))
    body = (body * smoothstep(-0.005, 0.01, y - top)).astype(np.float32)
    fall = canvas.seconds[:, None, None] * np.float32(0.12 + 0.1 * foot)
    crust = sample(fractal(rng, 128, slope=1.4), x / foot, 0.7 * (y - fall) / foot)
    bright = 0.85 - 0.3 * down + 0.16 * crust + 0.08 * (activity[:, None, None] - 0.8)
    return (body * np.clip(bright, 0.25, 1.0)).astype(np.float32)


def _fountain(spec: SceneSpec, canvas: Canvas, centre: float, top: float, foot: float, activity: Field) -> Field:
    """Light of the clots in the air, (T, H, W); each follows a parabola from the crater."""
    rng = canvas.rng
    power = foot * (1.0 if spec.strength == "strong" else 0.6)
    early = np.concatenate([np.full(canvas.fps, activity[0], np.float32), activity])
    number = np.rint(34 * early * STRENGTH_GAIN[spec.strength] + 4).astype(int)
    born = np.repeat(np.arange(len(early)) - canvas.fps, number)
    vigour = np.repeat(early, number)
    speed = np.sqrt(vigour) * power * rng.uniform(0.85, 1.5, len(born))
    sideways = 0.32 * power * rng.standard_normal(len(born))
    start = centre + 0.08 * foot * rng.uniform(-1, 1, len(born))
    age = (np.arange(int(1.3 * canvas.fps))[None, :] + rng.random((len(born), 1))) / canvas.fps
    x = start[:, None] + sideways[:, None] * age
    y = top + 0.01 - speed[:, None] * age + 1.35 * power * age**2
    frame = born[:, None] + np.arange(age.shape[1])[None, :]
    keep = (frame >= 0) & (frame < canvas.num_frames) & (y < top + 0.3 * foot)
    radius = np.broadcast_to((rng.uniform(0.8, 1.9, len(born)) * (0.45 + 0.9 * foot))[:, None], x.shape)[keep]
    glow = (0.75 * np.exp(-0.9 * age))[keep]
    return splat(frame[keep], x[keep], y[keep], radius * canvas.size / 256, glow, canvas.num_frames, canvas.size)


def _sound(spec: SceneSpec, canvas: Canvas, eruptions: list[int], activity: Field, centre: float) -> Field:
    """A rumble and the hiss of gas that follow the activity, a boom and a burst of gas at each eruption, (2, N)."""
    rng, count = canvas.rng, canvas.num_samples
    follow = canvas.frame_envelope(activity)
    mono: Field = (
        0.085 * noise_band(rng, count, 28, 160, tilt=-2) * follow
        + 0.035 * noise_band(rng, count, 800, 7000, tilt=-3) * follow**1.5
    )
    length = SAMPLE_RATE
    boom = 0.4 * noise_band(rng, length, 35, 300, tilt=-3) * decay(length, 0.006, 0.18)
    boom += 0.2 * noise_band(rng, length, 800, 7000, tilt=-3) * decay(length, 0.003, 0.25)
    for frame in eruptions:
        add_at(mono, canvas.sample_of(frame), boom * np.float32(rng.uniform(0.7, 1.1)))
    mono = mono * np.float32(DISTANCE_GAIN[spec.distance] * STRENGTH_GAIN[spec.strength])
    if spec.distance == "far":
        mono = lowpass(mono, 2500)
    return np.tanh(pan(mono, centre)).astype(np.float32)
