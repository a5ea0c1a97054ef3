"""A flag on a pole: waves run along the cloth, which cracks like a whip when a crest leaves its free edge.

At share s of its length the cloth is displaced by reach * s * sin(2 pi (waves * s - frame / period)): nothing at the
pole, most at the free edge. Its slope shades it. The period is a whole number of frames, so that each crest leaves on a
frame: there the cloth snaps and the halyard rings against the pole. Weak wind: slow, flat waves in a cloth that sags.
"""

from __future__ import annotations

import numpy as np

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
    limit,
    lowpass,
    noise_band,
    over,
    pan,
    sky,
    smoothstep,
)
from training.scenes.shapes import PAINT, below, ridge, star_layers

FAMILY = "flag"
VARIES = frozenset({"time_of_day", "distance", "side", "strength", "colour"})
COLOURS = ("red", "blue", "yellow", "green")
SUBJECTS = ("a flag", "a waving flag", "a flag on a pole", "a flag flying")

SCALE = {"near": 1.0, "far": 0.46}
LENGTH, HEIGHT = 0.43, 0.34
"""Of the cloth when near, as shares of the picture."""
REACH = {"weak": 0.02, "strong": 0.055}
WAVES = {"weak": 1.0, "strong": 1.5}
SAG = {"weak": 0.16, "strong": 0.0}
PERIODS = {"weak": (14, 17), "strong": (6, 8)}
"""Frames from crest to crest: least, and one more than most."""
WHITE = np.array((0.97, 0.97, 0.95), np.float32)


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """The pole is at the outer side: left of a flag on the left or in the middle, right of one on the right."""
    rng = canvas.rng
    scale, out = SCALE[spec.distance], -1.0 if spec.side == "right" else 1.0
    place = SIDE_POSITION[spec.side] + rng.uniform(-0.01, 0.01)
    pole, top = (
        place - out * 0.5 * LENGTH * scale,
        (0.15 if spec.distance == "near" else 0.4) + rng.uniform(-0.02, 0.02),
    )
    period, first = int(rng.integers(*PERIODS[spec.strength])), int(rng.integers(0, 6))
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    x, y = half.grid
    still = _pole(spec, _land(spec, half), x - pole, y - top, scale)
    crest = (np.arange(canvas.num_frames, dtype=np.float32) - first) / period
    colour, cover = _cloth(spec, out * (x - pole) / scale, (y - top) / scale, crest, 1 / (half.size * scale))
    frames = enlarge(over(still, colour, cover).astype(np.float32))
    edge = pole + out * LENGTH * scale
    events = [Event(at, "snap", edge) for at in range(first, canvas.num_frames, period)]
    return Clip(np.clip(frames, 0, 1), _sound(spec, canvas, events, pole), events)


def _light(spec: SceneSpec) -> Field:
    """Light on the cloth, (3,): at night it is lit by a lamp."""
    return 0.5 + 0.5 * np.array(LIGHT[spec.time_of_day], np.float32)


def _land(spec: SceneSpec, canvas: Canvas) -> Field:
    """A pale sky, at night with stars, and a low hill, (h, w, 3)."""
    picture = sky(canvas, spec.time_of_day, 0.6)
    if spec.time_of_day == "night":
        picture += 0.6 * star_layers(canvas.rng, canvas, 30, groups=1)[0][..., None]
    hill = np.array((0.3, 0.44, 0.2), np.float32) * np.array(LIGHT[spec.time_of_day], np.float32)
    return over(picture, hill, below(canvas, ridge(canvas.rng, canvas.grid[0][0], 0.89, 0.03, 2), 0.006))


def _pole(spec: SceneSpec, picture: Field, u: Field, v: Field, scale: float) -> Field:
    """A white pole with a golden ball, from above the cloth to the ground, drawn over the land."""
    edge, wide = 1 / picture.shape[0], 0.016 * scale
    light = _light(spec)
    shaft = (
        smoothstep(edge, -edge, np.abs(u) - wide)
        * (v > -0.05 * scale)
        * (v < (1.0 if spec.distance == "near" else 0.54))
    )
    round_ = (0.85 - 0.3 * np.clip(u / wide, -1, 1))[..., None]
    picture = over(picture, WHITE * round_ * light, shaft.astype(np.float32))
    ball = smoothstep(edge, -edge, np.hypot(u, v + 0.06 * scale) - 0.032 * scale)
    return over(picture, np.array((0.95, 0.72, 0.15), np.float32) * light, ball)


def _cloth(spec: SceneSpec, u: Field, v: Field, crest: Field, edge: float) -> tuple[Field, Field]:
    """Colour (T, h, w, 3) and coverage (T, h, w); u runs from the pole outwards, v down from the cloth's top corner.

    ``crest``: how many crests have left the free edge, (T,).
    """
    share = np.clip(u / LENGTH, 0, 1)
    phase = 2 * np.pi * (WAVES[spec.strength] * (share - 1) - crest[:, None, None]) + 0.8 * v / HEIGHT
    grown = share**0.7
    down = v - SAG[spec.strength] * share**1.6 + REACH[spec.strength] * grown * np.cos(phase)
    slope = grown * np.sin(phase)
    paint = PAINT[spec.colour or COLOURS[0]]
    band = smoothstep(-0.012, 0.012, 0.17 * HEIGHT - np.abs(down - 0.5 * HEIGHT))
    lit = 0.86 + (0.42 if spec.strength == "strong" else 0.26) * slope
    colour = (paint + (WHITE - paint) * band[..., None]) * lit[..., None] * _light(spec)
    # A cloth that waves in depth looks shorter and longer in turns.
    free = LENGTH * (1 - 0.03 * (1 + np.cos(phase[:, :, -1:])))
    outside = np.maximum(np.maximum(-down, down - HEIGHT), np.maximum(-u, u - free))
    return np.clip(colour, 0, 1).astype(np.float32), smoothstep(edge, -edge, outside).astype(np.float32)


def _sound(spec: SceneSpec, canvas: Canvas, events: list[Event], pole: float) -> Field:
    """A crack of cloth at every crest, its flutter after it, and the ring of the halyard on the pole, (2, N)."""
    rng, strong = canvas.rng, spec.strength == "strong"
    track = np.zeros((2, canvas.num_samples), np.float32)
    flutter_hz = 22.0 if strong else 13.0
    for event in events:
        start = canvas.sample_of(event.frame)
        for beat in range(4):
            weight = (0.75 if strong else 0.3) * 0.5**beat * rng.uniform(0.8, 1.1)
            late = start + int(beat * SAMPLE_RATE / flutter_hz)
            add_at(track, late, pan(weight * _crack(rng, strong), event.position))
        add_at(track, start + SAMPLE_RATE // 50, pan((0.22 if strong else 0.12) * _ring(rng), pole))
    track *= DISTANCE_GAIN[spec.distance]
    return limit(lowpass(track, 2800) if spec.distance == "far" else track)


def _crack(rng: np.random.Generator, strong: bool) -> Field:
    """One slap of cloth: a thump of air under a short, rough burst, (N,)."""
    count = SAMPLE_RATE // 4
    rough = noise_band(rng, count, 350, 4500 if strong else 1800, -2) * decay(count, 0.002, 0.016)
    return 0.32 * rough + 0.3 * noise_band(rng, count, 70, 220) * decay(count, 0.003, 0.03)


def _ring(rng: np.random.Generator) -> Field:
    """A rope's shackle on a hollow metal pole: three partials of a bar, (N,)."""
    count = SAMPLE_RATE
    t = np.arange(count, dtype=np.float32) / SAMPLE_RATE
    base = 1150.0 * rng.uniform(0.97, 1.03)
    partials = [(1.0, 1.0, 0.22), (2.76, 0.6, 0.14), (5.4, 0.3, 0.07)]
    wave = sum(level * np.sin(2 * np.pi * ratio * base * t) * decay(count, 0.001, s) for ratio, level, s in partials)
    return np.asarray(wave, np.float32)
