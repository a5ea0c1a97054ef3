"""A fountain in a park: pulsing jets rise from a stone bowl, fall as ballistic arcs and splash into a round basin.

Every drop keeps the speed it left the nozzle with and falls under one gravity, so a pulse of the pump is seen to climb,
to arch and to come down. The water that lands in a frame (speed squared of its drops) makes the foam of that frame, and
the level of the splashing; each pulse that lands is an onset, and trickling drops ring as bubbles in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.scenes.base import (
    DISTANCE_GAIN,
    LIGHT,
    SAMPLE_RATE,
    SIDE_POSITION,
    Canvas,
    Clip,
    Event,
    Field,
    SceneSpec,
    add_at,
    decay,
    enlarge,
    fractal,
    limit,
    lowpass,
    noise_band,
    over,
    pan,
    sample,
    sky,
    smoothstep,
)
from training.scenes.shapes import below, ridge, splat

FAMILY = "fountain"
VARIES = frozenset({"time_of_day", "distance", "side", "strength"})
SUBJECTS = (
    "a fountain",
    "a stone fountain",
    "a fountain in a park",
    "water jets of a fountain",
    "a splashing fountain",
)

GRAVITY = 1.7
"""Picture heights per second squared when near: the picture shows about six metres."""
DROPS_PER_SECOND = 110
JETS = {
    "weak": ((0.0, 0.17), (-0.7, 0.06), (0.7, 0.06)),
    "strong": ((0.0, 0.47), (-0.55, 0.26), (0.55, 0.26), (-0.9, 0.13), (0.9, 0.13)),
}
"""(where it lands, in basin radii from the middle; how high it rises, in near picture heights)."""
PERIOD = {"weak": 1.4, "strong": 1.8}
"""Seconds from pulse to pulse of the pump."""


@dataclass(frozen=True)
class Place:
    """Where the fountain stands: middle, level of its water, scale (1 is near), all in shares of the picture."""

    x: float
    water: float
    scale: float

    @property
    def radius(self) -> float:
        return 0.23 * self.scale

    @property
    def nozzle(self) -> float:
        return self.water - 0.16 * self.scale


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Weak: three low jets. Strong: five, the middle one as high as the trees."""
    rng, near = canvas.rng, spec.distance == "near"
    x = SIDE_POSITION[spec.side] + rng.uniform(-0.03, 0.03)
    place = Place(
        x, rng.uniform(0.76, 0.8) if near else rng.uniform(0.7, 0.73), (1.0 if near else 0.42) * rng.uniform(0.95, 1.05)
    )
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    phase = rng.random()
    water, landed = _jets(half, spec.strength, place, phase)
    light = _light(spec)
    still = _park(spec, half, place)
    frames = over(still, *_pool(half, place, light, landed))
    stone = np.array(((0.78, 0.74, 0.66), (0.66, 0.67, 0.7))[int(rng.integers(2))], np.float32) * light
    frames = over(frames, *_bowl(half, place, stone))
    white = np.minimum(np.array((0.95, 0.98, 1.0), np.float32) * (0.3 + 0.75 * light), 1.0)
    frames = over(frames, white, water)
    frames = over(frames, *_wall(half, place, stone))
    frames = over(frames, white, _foam(half, place, landed))
    events = [Event(frame, "splash", place.x) for frame in _onsets(canvas, landed)]
    sound = _sound(spec, canvas, landed, events, place)
    return Clip(np.clip(enlarge(frames.astype(np.float32)), 0, 1), sound, events)


def _light(spec: SceneSpec) -> Field:
    """Light on stone and water, (3,): at night lamps in the basin shine on them."""
    lamps = np.array((0.62, 0.78, 0.95), np.float32)
    return lamps if spec.time_of_day == "night" else 0.3 + 0.7 * np.array(LIGHT[spec.time_of_day], np.float32)


def _park(spec: SceneSpec, canvas: Canvas, place: Place) -> Field:
    """Sky, a dark row of trees, so that white water shows, and a lawn, (h, w, 3)."""
    rng, (x, y) = canvas.rng, canvas.grid
    light = np.array(LIGHT[spec.time_of_day], np.float32)
    texture = fractal(rng, 128, 1.5)
    edge = place.water - 0.06 * place.scale - 0.04
    picture = sky(canvas, spec.time_of_day, edge)
    crowns = ridge(rng, x[0], edge - rng.uniform(0.36, 0.42), 0.05, first=1.7)
    leaves = np.array((0.1, 0.26, 0.13), np.float32) * light * (1 + 0.2 * sample(texture, 2 * x, 2 * y))[..., None]
    picture = over(picture, leaves.astype(np.float32), below(canvas, crowns))
    lawn = np.array((0.36, 0.56, 0.22), np.float32) * light * (1 + 0.06 * sample(texture, x, 3 * y))[..., None]
    return over(picture, lawn.astype(np.float32), smoothstep(-0.006, 0.006, y - edge + 0 * x))


def _jets(canvas: Canvas, strength: str, place: Place, phase: float) -> tuple[Field, Field]:
    """Opacity of the water in the air (T, h, w), and the energy that lands in each frame (T,), mean 1."""
    clip, gravity = canvas.num_frames / canvas.fps, GRAVITY * place.scale
    columns: list[tuple[NDArray[np.integer], Field, Field]] = []
    landed = np.zeros(canvas.num_frames)
    for reach, height in JETS[strength]:
        born = np.arange(-2.5, clip, 1 / DROPS_PER_SECOND)
        pulse = np.where((born / PERIOD[strength] + phase) % 1 < 0.5, 1.0, 0.5)
        up = np.sqrt(2 * gravity * height * place.scale * pulse) * canvas.rng.normal(1, 0.035, len(born))
        flight = (up + np.sqrt(up**2 + 2 * gravity * (place.water - place.nozzle))) / gravity
        full = (1 + np.sqrt(1 + 0.16 / height)) * np.sqrt(2 * height / GRAVITY)
        side = (reach * place.radius / full) * canvas.rng.normal(1, 0.05, len(born)) + canvas.rng.normal(
            0, 0.008 * place.scale, len(born)
        )
        landed += np.histogram(born + flight, canvas.num_frames, (0, clip), weights=up**2)[0]
        age = canvas.seconds[:, None] - born
        frame, drop = np.nonzero((age >= 0) & (age < flight))
        t = age[frame, drop]
        columns.append((frame, place.x + side[drop] * t, place.nozzle - up[drop] * t + gravity * t**2 / 2))
    frame, x, y = (np.concatenate(part) for part in zip(*columns, strict=True))
    radius = np.full(len(x), max(1.7 * place.scale, 0.9) * canvas.size / 128)
    water = splat(frame, x, y, radius, np.full(len(x), 0.4), canvas.num_frames, canvas.size)
    return 1 - np.exp(-water), (landed / max(landed.mean(), 1e-9)).astype(np.float32)


def _pool(canvas: Canvas, place: Place, light: Field, landed: Field) -> tuple[Field, Field]:
    """Colour (T, h, w, 3) and coverage (h, w) of the water in the basin, with rings that run out from the middle."""
    x, y = canvas.grid
    t = canvas.seconds[:, None, None]
    away = np.hypot(x - place.x, 4.2 * (y - place.water)) / place.radius
    rings = np.sin(2 * np.pi * (3.2 * away - 1.6 * t)) * np.minimum(landed, 1.6)[:, None, None]
    colour = (np.array((0.16, 0.5, 0.62), np.float32) + 0.16 * rings[..., None]) * light
    return colour.astype(np.float32), smoothstep(1.02, 0.97, away)


def _bowl(canvas: Canvas, place: Place, stone: Field) -> tuple[Field, Field]:
    """Colour and coverage (h, w) of the pillar in the middle and the bowl on it."""
    x, y = canvas.grid
    u, v = (x - place.x) / place.scale, (y - place.nozzle) / place.scale
    pillar = smoothstep(0.034, 0.026, np.abs(u)) * smoothstep(-0.005, 0.005, v) * smoothstep(0.175, 0.165, v)
    hang = 0.05 * np.sqrt(np.clip(1 - (u / 0.1) ** 2, 0, 1))
    bowl = smoothstep(0.104, 0.098, np.abs(u)) * smoothstep(-0.004, 0.004, v) * smoothstep(0.008, 0.0, v - hang)
    shade = 0.78 - 3.0 * u - 2.0 * np.clip(v - 0.01, 0, 0.1)
    return (np.clip(shade, 0.35, 1.1)[..., None] * stone).astype(np.float32), np.maximum(pillar, bowl)


def _wall(canvas: Canvas, place: Place, stone: Field) -> tuple[Field, Field]:
    """Colour and coverage (h, w) of the basin's rim all round and of its wall in front."""
    rng, (x, y) = canvas.rng, canvas.grid
    texture = fractal(rng, 128, 1.2, 4)
    u, v = (x - place.x) / place.radius, (y - place.water) / place.radius
    away = np.hypot(u, 4.2 * v)
    rim = smoothstep(0.95, 1.0, away) * smoothstep(1.13, 1.08, away)
    front = np.sqrt(np.clip(1 - (u / 1.1) ** 2, 0, 1)) / 4.2
    wall = smoothstep(1.1, 1.07, np.abs(u)) * smoothstep(0.0, 0.02, v - front) * smoothstep(0.4, 0.37, v - front)
    shade = (0.72 - 0.3 * u + 0.08 * sample(texture, x, 2 * y)) * (1 - rim) + 1.12 * rim
    return (np.clip(shade, 0.25, 1.15)[..., None] * stone).astype(np.float32), np.maximum(rim, wall)


def _foam(canvas: Canvas, place: Place, landed: Field) -> Field:
    """Opacity of the splashes on the water, (T, h, w)."""
    x, y = canvas.grid
    texture = fractal(canvas.rng, 128, 1.3, 4)
    u, v = (x - place.x) / place.radius, (y - place.water) / place.radius
    crown = np.exp(-((u / 0.7) ** 4) - ((v + 0.02) / 0.13) ** 2)
    boil = 0.75 + 0.4 * sample(texture, x * 1.5, y * 1.5 + 0.9 * canvas.seconds[:, None, None])
    return np.clip(crown * boil * (0.25 + 0.5 * landed[:, None, None]), 0, 0.95).astype(np.float32)


def _onsets(canvas: Canvas, landed: Field) -> list[int]:
    """Frames in which the head of a pulse lands: the energy rises through its mean."""
    rises = np.nonzero((landed[1:] >= 1) & (landed[:-1] < 1))[0] + 1
    kept: list[int] = []
    for frame in rises:
        if not kept or frame - kept[-1] > 0.6 * canvas.fps:
            kept.append(int(frame))
    return kept


def _sound(spec: SceneSpec, canvas: Canvas, landed: Field, events: list[Event], place: Place) -> Field:
    """Splashing in the middle band that follows what lands, a slap at each pulse, ringing bubbles all along, (2, N)."""
    rng, count, strong = canvas.rng, canvas.num_samples, spec.strength == "strong"
    follow = canvas.frame_envelope(np.minimum(landed, 2.5) ** 1.3)
    track = 0.075 * noise_band(rng, count, 500, 3200, -2) * follow
    for event in events:
        slap = noise_band(rng, 24_000, 250, 1800, -2) * decay(24_000, 0.004, 0.13)
        add_at(track, canvas.sample_of(event.frame), 0.3 * slap)
    for _ in range(rng.poisson((45 if strong else 22) * count / SAMPLE_RATE)):
        add_at(track, int(rng.integers(count)), rng.uniform(0.03, 0.16) * _bubble(rng))
    track *= (1.0 if strong else 0.4) * DISTANCE_GAIN[spec.distance]
    return limit(pan(lowpass(track, 3000) if spec.distance == "far" else track, place.x))


def _bubble(rng: np.random.Generator) -> Field:
    """A drop's bubble: a short tone that rises as the bubble shrinks (Minnaert), (N,)."""
    count = 3600
    t = np.arange(count, dtype=np.float32) / SAMPLE_RATE
    pitch = rng.uniform(700, 2400)
    return (np.sin(2 * np.pi * pitch * t * (1 + 3 * t)) * decay(count, 0.002, 0.016)).astype(np.float32)
