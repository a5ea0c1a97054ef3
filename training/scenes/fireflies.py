"""Fireflies over the edge of a meadow on a summer night, and crickets in the grass.

Each firefly belongs to one of a few groups that flash together, glows up fast, fades more slowly, and drifts while it
does. The crickets sit where the fireflies are: trains of short pulses of one high tone, in a steady rhythm.
"""

from __future__ import annotations

import numpy as np

from training.scenes.base import (
    DISTANCE_GAIN,
    SAMPLE_RATE,
    SIDE_POSITION,
    Canvas,
    Clip,
    Event,
    Field,
    SceneSpec,
    add_at,
    enlarge,
    fractal,
    limit,
    over,
    pan,
    ramp,
    sample,
    smoothstep,
)
from training.scenes.shapes import below, ridge, splat

FAMILY = "fireflies"
VARIES = frozenset({"distance", "side", "strength"})
SUBJECTS = (
    "fireflies",
    "glowing fireflies",
    "fireflies over dark grass",
    "fireflies at the edge of a wood",
    "fireflies and chirping crickets",
)

COUNT = {"weak": 6, "strong": 16}
GROUPS = 3
PERIOD_SECONDS = (1.4, 2.0)
"""From flash to flash: drawn in this range, nearly the same for the groups, which flash one after the other."""
GLOW = np.array((0.86, 1.0, 0.22), np.float32)
CHIRPS_PER_SECOND = {"weak": 1.7, "strong": 2.7}
PULSES = 4
PULSE_SECONDS = 0.034
"""A chirp is so many pulses, one each so many seconds (a field cricket)."""


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Near: large soft lights in front of the grass. Far: small ones before the trees. Most are on the side named."""
    rng = canvas.rng
    place = SIDE_POSITION[spec.side] + rng.uniform(-0.03, 0.03)
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    frames = np.repeat(_wood(half)[None], canvas.num_frames, axis=0)
    core, halo = _lights(spec, half, place)
    frames = frames + (0.5 * halo)[..., None] * GLOW
    frames = over(frames, np.array((1.0, 1.0, 0.72), np.float32), np.minimum(core, 1.0))
    events = [Event(frame, "chirp", place) for frame in _chirp_frames(spec, canvas)]
    return Clip(np.clip(enlarge(frames.astype(np.float32)), 0, 1), _sound(spec, canvas, place, events), events)


def _wood(canvas: Canvas) -> Field:
    """A dim green-blue sky, black round trees and dark grass, (h, w, 3)."""
    rng, (x, y) = canvas.rng, canvas.grid
    picture = np.broadcast_to(
        ramp(y / 0.6, (0.0, (0.03, 0.07, 0.15)), (1.0, (0.12, 0.3, 0.32))), (canvas.size, canvas.size, 3)
    )
    texture = fractal(rng, 128, 1.4)
    trees = (
        ridge(rng, x[0], rng.uniform(0.4, 0.46), 0.09, first=1.6) + 0.015 * sample(texture, 2 * x, np.float32(0.3))[0]
    )
    picture = over(picture, np.array((0.012, 0.04, 0.03), np.float32), below(canvas, trees))
    edge = rng.uniform(0.64, 0.68) + 0.02 * sample(texture, 4 * x, np.float32(0.6))
    blades = 0.75 + 0.25 * np.tanh(sample(fractal(rng, 128, 0.7, 6), 1.5 * x, 0.4 * y))
    grass = np.array((0.06, 0.2, 0.07), np.float32) * blades[..., None] * (1.3 - 0.7 * y)[..., None]
    return over(picture, grass.astype(np.float32), smoothstep(-0.015, 0.015, y - edge))


def _lights(spec: SceneSpec, canvas: Canvas, place: float) -> tuple[Field, Field]:
    """Bright core and soft halo of the fireflies, each (T, h, w)."""
    rng, count, near = canvas.rng, COUNT[spec.strength], spec.distance == "near"
    t = canvas.seconds[:, None]
    group = np.arange(count) % GROUPS
    period = (rng.uniform(*PERIOD_SECONDS) * rng.uniform(0.95, 1.05, GROUPS))[group]
    phase = group / GROUPS + rng.random()
    age = (t / period + phase + rng.uniform(-0.03, 0.03, count)) % 1
    shine = smoothstep(0.0, 0.12, age) * smoothstep(0.62, 0.25, age)
    spread, height = _apart(rng, count, *((0.19, 0.44, 0.88) if near else (0.17, 0.54, 0.72)))
    way, turn = rng.uniform(-0.03, 0.03, (2, count)), rng.uniform(0.8, 1.6, count)
    drift = 1.0 if near else 0.42
    x = place + spread + drift * (way[0] * t + 0.022 * np.sin(turn * t + 6 * phase))
    y = height + drift * (0.3 * way[1] * t - 0.03 * np.sin(2 * turn * t))
    frame = np.broadcast_to(np.arange(canvas.num_frames)[:, None], x.shape).ravel()
    unit = canvas.size / 128 * (1.0 if near else 0.42) * rng.uniform(0.8, 1.2, count)
    fields = []
    for radius, weight in ((3.0, 1.15), (7.5, 0.75)):
        size = np.broadcast_to(radius * unit, x.shape).ravel()
        fields.append(splat(frame, x.ravel(), y.ravel(), size, weight * shine.ravel(), canvas.num_frames, canvas.size))
    return fields[0], fields[1]


def _apart(rng: np.random.Generator, count: int, wide: float, top: float, low: float) -> tuple[Field, Field]:
    """Places that keep away from each other (each the loneliest of ten): x in +-``wide`` and y, each (count,)."""
    places = np.array([(0.0, rng.uniform(top, low))])
    while len(places) < count:
        tries = np.stack([rng.uniform(-wide, wide, 10), rng.uniform(top, low, 10)], axis=1)
        nearest = np.hypot(*(tries[:, None] - places).T).min(axis=0)
        places = np.concatenate([places, tries[[int(nearest.argmax())]]])
    shuffled = rng.permutation(places)
    return shuffled[:, 0].astype(np.float32), shuffled[:, 1].astype(np.float32)


def _chirp_frames(spec: SceneSpec, canvas: Canvas) -> list[int]:
    """Frames in which the nearest cricket begins a chirp."""
    every = canvas.fps / CHIRPS_PER_SECOND[spec.strength]
    return [int(at) for at in np.arange(canvas.rng.uniform(0, every), canvas.num_frames, every)]


def _sound(spec: SceneSpec, canvas: Canvas, place: float, events: list[Event]) -> Field:
    """The nearest cricket in the rhythm of ``events`` and, when strong, two more that answer it, (2, N)."""
    rng, strong = canvas.rng, spec.strength == "strong"
    track = np.zeros((2, canvas.num_samples), np.float32)
    every = round(SAMPLE_RATE / CHIRPS_PER_SECOND[spec.strength])
    choir = [(4500.0, 1.0, 0.0, 0)] + (
        [(4100.0, 0.5, -0.12, every // 2), (4900.0, 0.4, 0.12, every // 3)] if strong else []
    )
    for pitch, level, aside, delay in choir:
        chirp = pan(level * _chirp(pitch * rng.uniform(0.97, 1.03)), place + aside)
        for event in events:
            add_at(track, canvas.sample_of(event.frame) + delay, chirp)
    return limit((0.3 if strong else 0.13) * DISTANCE_GAIN[spec.distance] * track)


def _chirp(pitch_hz: float) -> Field:
    """Four swelling pulses of one tone, the first softer, (N,)."""
    count = round(PULSES * PULSE_SECONDS * SAMPLE_RATE)
    t = np.arange(count, dtype=np.float32) / SAMPLE_RATE
    pulse = np.clip(np.sin(np.pi * (t / PULSE_SECONDS % 1) / 0.7), 0, 1) * (t / PULSE_SECONDS % 1 < 0.7)
    swell = np.minimum(0.5 + t / (2 * PULSE_SECONDS), 1.0)
    tone = np.sin(2 * np.pi * pitch_hz * t) + 0.12 * np.sin(4 * np.pi * pitch_hz * t)
    return (tone * pulse * swell).astype(np.float32)
