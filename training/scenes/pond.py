"""A still pond seen from above at an angle: single drops fall and send out rings, lily pads float.

A drop starts a packet of waves that runs outwards at one speed, gets wider and dies away; the slope of the surface
turns the mirrored sky, so the rings are light on one flank and dark on the other. Each drop is a plop at its frame
(the cavity it leaves rings for a few hundredths of a second), panned to its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.scenes.base import (
    DISTANCE_GAIN,
    SAMPLE_RATE,
    Canvas,
    Clip,
    Event,
    Field,
    SceneSpec,
    add_at,
    decay,
    diffuse,
    fractal,
    lowpass,
    noise_band,
    over,
    pan,
    sample,
    smoothstep,
)
from training.scenes.shapes import splat

FAMILY = "pond"
VARIES = frozenset({"distance", "strength"})
SUBJECTS = (
    "a pond",
    "a pond with lily pads",
    "raindrops on a pond",
    "drops falling into a pond",
    "ripples on a pond",
    "lily pads on still water",
)

DROPS_PER_SECOND = {"weak": 1.1, "strong": 4.5}
RING_SCALE = {"near": 1.0, "far": 0.5}
LIFE_SECONDS = 2.0
SQUASH = 0.5
"""How much the viewing angle flattens a ring."""


@dataclass(frozen=True)
class Drop:
    """Frame and place (shares of the picture) of a drop, and its size around 1."""

    frame: int
    x: float
    y: float
    size: float


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Frames (T, H, W, 3) and sound (2, N)."""
    drops = _drops(spec, canvas)
    surface = _surface(canvas)
    slope = _slope(spec, canvas, drops)
    frames: Field = surface[None] + (np.maximum(slope, 0) * 0.55)[..., None] * np.array([0.75, 0.95, 0.9], np.float32)
    frames *= 1 - 0.75 * np.clip(-slope, 0, 1)[..., None]
    for pad in range(int(canvas.rng.integers(4, 8))):
        frames = _lay_pad(spec, canvas, frames, slope, flower=pad == 0 and bool(canvas.rng.random() < 0.6))
    frames += _falling(spec, canvas, drops)[..., None] * np.array([0.85, 0.95, 1.0], np.float32)
    events = [Event(drop.frame, "plop", drop.x) for drop in drops if 0 <= drop.frame < canvas.num_frames]
    return Clip(np.clip(frames, 0, 1), _sound(spec, canvas, drops), events)


def _drops(spec: SceneSpec, canvas: Canvas) -> list[Drop]:
    """Drops at uneven intervals, some from before the first frame."""
    rng = canvas.rng
    gap = canvas.fps / DROPS_PER_SECOND[spec.strength]
    frames = np.arange(-canvas.fps, canvas.num_frames, gap) + rng.uniform(0, gap)
    drops = []
    for frame in np.rint(frames + rng.uniform(-0.35, 0.35, len(frames)) * gap).astype(int):
        x, y, size = rng.uniform(0.1, 0.9), rng.uniform(0.3, 0.9), rng.uniform(0.75, 1.2)
        drops.append(Drop(int(frame), float(x), float(y), float(size)))
    return drops


def _surface(canvas: Canvas) -> Field:
    """Dark green water that mirrors a paler sky at the far end, (H, W, 3)."""
    rng = canvas.rng
    x, y = canvas.grid
    hue = rng.uniform(0, 1)
    near = np.array([0.03, 0.15 + 0.04 * hue, 0.13 - 0.05 * hue], np.float32)
    far = np.array([0.26, 0.44, 0.42 - 0.08 * hue], np.float32)
    depth = smoothstep(1.0, -0.15, y)[..., None]
    mottled = 1 + 0.13 * sample(fractal(rng, 128, slope=2.0), 0.6 * x, 1.2 * y)
    return ((near + (far - near) * depth) * mottled[..., None]).astype(np.float32)


def _perspective(y: float) -> float:
    """Size of things by their height in the picture: the lower, the nearer."""
    return 0.55 + 0.65 * y


def _slope(spec: SceneSpec, canvas: Canvas, drops: list[Drop]) -> Field:
    """Slope of the water surface by all rings, about -1 to 1, (T, H, W)."""
    slope = np.zeros((canvas.num_frames, canvas.size, canvas.size), np.float32)
    for drop in drops:
        for frame in range(max(drop.frame, 0), min(drop.frame + int(LIFE_SECONDS * canvas.fps), canvas.num_frames)):
            _add_ring(spec, canvas, slope[frame], drop, (frame - drop.frame + 0.5) / canvas.fps)
    return np.tanh(slope)


def _add_ring(spec: SceneSpec, canvas: Canvas, slope: Field, drop: Drop, age: float) -> None:
    """Adds one drop's rings at one age to ``slope`` in place, inside the box that they reach."""
    scale = RING_SCALE[spec.distance] * _perspective(drop.y)
    front, length = 0.16 * scale * age + 0.01, 0.052 * scale * (1 + 0.35 * age)
    reach, size = front + 1.2 * length, canvas.size
    left, right = max(int((drop.x - reach) * size), 0), min(int((drop.x + reach) * size) + 2, size)
    top, bottom = max(int((drop.y - SQUASH * reach) * size), 0), min(int((drop.y + SQUASH * reach) * size) + 2, size)
    x, y = canvas.grid
    away = np.hypot(x[:, left:right] - drop.x, (y[top:bottom] - drop.y) / SQUASH)
    behind = (away - front) / length
    packet = np.exp(-np.square(behind / np.where(behind > 0, 0.55, 1.2)))
    height = (
        1.5 * drop.size * np.exp(-1.0 * age) * smoothstep(LIFE_SECONDS, 0.7 * LIFE_SECONDS, np.asarray(age, np.float32))
    )
    slope[top:bottom, left:right] += height * packet * np.cos(2 * np.pi * behind)


def _lay_pad(spec: SceneSpec, canvas: Canvas, frames: Field, slope: Field, flower: bool) -> Field:
    """Lays a lily pad with its notch, rocked by the rings, and perhaps a flower on it, over the frames."""
    rng = canvas.rng
    x, y = canvas.grid
    at_x, at_y = rng.uniform(0.05, 0.95), rng.uniform(0.15, 0.95)
    radius = rng.uniform(0.12, 0.18) * _perspective(at_y) * (1.0 if spec.distance == "near" else 0.6)
    across, down = x - at_x, (y - at_y) / SQUASH
    away, angle = np.hypot(across, down) / radius, np.arctan2(down, across) - rng.uniform(-np.pi, np.pi)
    notch = smoothstep(0.16, 0.24, np.abs((angle + np.pi) % (2 * np.pi) - np.pi))
    cover = smoothstep(1.04, 0.97, away) * np.maximum(notch, smoothstep(0.15, 0.05, away))
    veins = 0.9 + 0.1 * np.cos(9 * angle) * np.clip(away, 0, 1)
    green = np.array([rng.uniform(0.2, 0.32), rng.uniform(0.5, 0.62), 0.16], np.float32)
    colour = green * (veins * (1.05 - 0.25 * away))[..., None]
    row, column = int(at_y * (canvas.size - 1)), int(at_x * (canvas.size - 1))
    rock = 1 + 0.12 * slope[:, row, column]
    frames = over(frames, colour[None] * rock[:, None, None, None], np.broadcast_to(cover, slope.shape))
    return _lay_flower(frames, canvas, at_x, at_y - 0.25 * radius, 0.5 * radius) if flower else frames


def _lay_flower(frames: Field, canvas: Canvas, at_x: float, at_y: float, radius: float) -> Field:
    x, y = canvas.grid
    across, down = (x - at_x) / radius, (y - at_y) / (0.75 * radius)
    away, angle = np.hypot(across, down), np.arctan2(down, across)
    petals = smoothstep(0.05, -0.05, away - 0.75 - 0.25 * np.cos(8 * angle))
    pink = np.stack(
        [np.full_like(away, 0.98), 0.5 + 0.4 * np.clip(away, 0, 1), 0.66 + 0.25 * np.clip(away, 0, 1)], axis=-1
    )
    frames = over(frames, pink, petals)
    return over(frames, np.array([1.0, 0.85, 0.25], np.float32), smoothstep(0.3, 0.2, away))


def _falling(spec: SceneSpec, canvas: Canvas, drops: list[Drop]) -> Field:
    """The drop in the two frames before it hits and the splash in the two after, (T, H, W)."""
    scale = RING_SCALE[spec.distance] ** 0.5
    rows = []
    for drop in drops:
        width = 1.5 * scale * drop.size * float(_perspective(drop.y)) * canvas.size / 256
        for before in (1, 2):
            for tail in range(8):
                rows.append(
                    (drop.frame - before, drop.x, drop.y - (0.13 * before - 0.05 - 0.011 * tail) * scale, width, 0.4)
                )
        rows.append((drop.frame, drop.x, drop.y - 0.008 * scale, 2.6 * width, 1.1))
        rows.append((drop.frame + 1, drop.x, drop.y - 0.03 * scale, 1.5 * width, 0.8))
        for side in (-1, 1):
            rows.append((drop.frame, drop.x + 0.018 * side * scale, drop.y - 0.024 * scale, width, 0.7))
            rows.append((drop.frame + 1, drop.x + 0.035 * side * scale, drop.y - 0.026 * scale, width, 0.6))
    frame, x, y, width, weight = (np.array(column) for column in zip(*rows, strict=True))
    keep = (frame >= 0) & (frame < canvas.num_frames)
    return splat(frame[keep], x[keep], y[keep], width[keep], weight[keep], canvas.num_frames, canvas.size)


def _sound(spec: SceneSpec, canvas: Canvas, drops: list[Drop]) -> Field:
    """A plop for each drop over a very quiet outdoors, (2, N)."""
    rng, count = canvas.rng, SAMPLE_RATE // 4
    track = diffuse(rng, np.full(canvas.num_samples, 0.004, np.float32), 150, 1500, tilt=-4)
    pitches = (420.0, 560.0, 760.0, 1000.0)
    plops = [noise_band(rng, count, low, 1.5 * low) * decay(count, 0.006, 0.045) for low in pitches]
    click = noise_band(rng, count, 1500, 4000, tilt=-6) * decay(count, 0.0008, 0.008)
    for drop in drops:
        if not 0 <= drop.frame < canvas.num_frames:
            continue
        plop = plops[int(np.clip((1.2 - drop.size) / 0.45 * 4, 0, 3))]
        add_at(track, canvas.sample_of(drop.frame), pan(drop.size * (0.28 * plop + 0.2 * click), drop.x))
    track *= DISTANCE_GAIN[spec.distance]
    return np.tanh(lowpass(track, 2500) if spec.distance == "far" else track).astype(np.float32)
