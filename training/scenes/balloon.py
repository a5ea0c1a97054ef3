"""A hot-air balloon: a striped envelope that glows and rises when its burner roars.

Each burst of the burner heats the air in the envelope, which cools slowly: the lift is the burner's state after a
first-order lag, and the balloon climbs with it and sinks without. Burst, flame and glow are one number per frame. A
``strong`` burner fires long and often with a tall flame; a weak one in short puffs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import signal

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

FAMILY = "balloon"
VARIES = frozenset({"time_of_day", "distance", "side", "strength", "colour"})
COLOURS = ("red", "blue", "yellow", "green")
SUBJECTS = ("a hot-air balloon", "a balloon", "a hot air balloon in the sky", "a balloon floating in the air")

RADIUS = {"near": 0.18, "far": 0.082}
"""Of the envelope; the whole balloon is 3.3 times as high."""
LENGTH = {"weak": (4, 6), "strong": (10, 14)}
GAP = {"weak": (24, 29), "strong": (18, 22)}
"""Frames that a burst lasts, and from the start of one to the next: least, and one more than most."""
JOIN, MOUTH = 0.6, 1.4
"""Where the ball becomes a cone, and where that ends: down from the ball's middle, in radii."""
BURNER, BASKET = 1.85, (1.9, 2.3)
BACKGROUND_GAIN = 0.5
GORES = 5
"""Two stripes, one of each tone, for every 2 pi / GORES around the envelope; the saturated one faces the viewer."""


@dataclass(frozen=True)
class Flight:
    """Per frame, (T,): where the ball's middle is, and how hard the burner burns (0 to 1)."""

    x: Field
    y: Field
    fire: Field


def render(spec: SceneSpec, canvas: Canvas, background: Clip | None = None) -> Clip:
    """Near: the balloon takes up more than half of the height. Far: less than a quarter.

    Over a ``background`` it flies before that, not before hills; the background's own sound is kept, 6 dB quieter.
    """
    rng, radius = canvas.rng, RADIUS[spec.distance]
    starts, fire = _bursts(spec, canvas)
    flight = _fly(spec, canvas, fire, radius)
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    x, y = half.grid
    u = (x - flight.x[:, None, None]) / radius
    v = (y - flight.y[:, None, None]) / radius
    edge = 1 / (half.size * radius)
    burning = fire[:, None, None] * (1.0 if spec.strength == "strong" else 0.6)
    land = _land(spec, half)[None] if background is None else _halved(background.frames)
    frames = over(land, *_envelope(spec, u, v, burning, edge))
    frames = over(frames, *_basket(spec, u, v, edge))
    flame, bright = _flame(u, v, burning)
    frames = enlarge(over(frames, flame, bright).astype(np.float32))
    events = [Event(frame, "burner", float(flight.x[frame])) for frame in starts]
    sound = _sound(spec, canvas, starts, flight)
    if background is not None:
        sound = limit(sound + BACKGROUND_GAIN * background.sound)
    return Clip(np.clip(frames, 0, 1), sound, events)


def _halved(frames: Field) -> Field:
    """(T, 2h, 2w, 3) -> (T, h, w, 3), means of four."""
    count, height, width, _ = frames.shape
    return frames.reshape(count, height // 2, 2, width // 2, 2, 3).mean(axis=(2, 4))


def _bursts(spec: SceneSpec, canvas: Canvas) -> tuple[list[int], Field]:
    """Frames in which the burner is lit, and its state in each frame, (T,): lit at once, out within two frames."""
    rng, starts = canvas.rng, [int(canvas.rng.integers(1, 6))]
    while starts[-1] < canvas.num_frames:
        starts.append(starts[-1] + int(rng.integers(*GAP[spec.strength])))
    fire = np.zeros(canvas.num_frames, np.float32)
    for start in starts:
        fire[start : start + int(rng.integers(*LENGTH[spec.strength]))] = 1.0
    fading = np.concatenate([[0.0], fire[:-1]])
    return [start for start in starts if start < canvas.num_frames], np.maximum(fire, 0.35 * fading).astype(np.float32)


def _fly(spec: SceneSpec, canvas: Canvas, fire: Field, radius: float) -> Flight:
    """Drifts to one side, bobs, and climbs with the heat of its air."""
    rng, t = canvas.rng, canvas.seconds
    share = canvas.fps * 0.8
    heat = signal.lfilter([1 / share], [1, 1 / share - 1], fire - fire.mean())
    climb = np.cumsum(heat) / canvas.fps * radius * 0.9
    drift = rng.choice((-1.0, 1.0)) * radius * rng.uniform(0.25, 0.4) * (t - t.mean()) / 2.5
    bob = 0.07 * radius * np.sin(2 * np.pi * (0.4 * t + rng.random()))
    middle = 0.5 - 0.65 * radius + rng.uniform(-0.04, 0.02) - (0.06 if spec.distance == "far" else 0.04)
    x = SIDE_POSITION[spec.side] + rng.uniform(-0.02, 0.02) + drift
    return Flight(x.astype(np.float32), (middle - climb + climb.mean() + bob).astype(np.float32), fire)


def _light(spec: SceneSpec) -> Field:
    """Light on the envelope, (3,); never black, as at night it also glows faintly from inside."""
    return 0.48 + 0.52 * np.array(LIGHT[spec.time_of_day], np.float32)


def _land(spec: SceneSpec, canvas: Canvas) -> Field:
    """A wide sky over low hills, (h, w, 3)."""
    picture = sky(canvas, spec.time_of_day, 0.65)
    if spec.time_of_day == "night":
        picture += 0.6 * star_layers(canvas.rng, canvas, 40, groups=1)[0][..., None]
    hill = np.array((0.24, 0.36, 0.2), np.float32) * np.array(LIGHT[spec.time_of_day], np.float32)
    return over(picture, hill, below(canvas, ridge(canvas.rng, canvas.grid[0][0], 0.92, 0.03, 3), 0.006))


def _envelope(spec: SceneSpec, u: Field, v: Field, burning: Field, edge: float) -> tuple[Field, Field]:
    """Colour (T, h, w, 3) and coverage (T, h, w): gores of two tones, lit from the upper left and from inside."""
    ball = np.sqrt(np.maximum(1 - np.square(np.minimum(v, JOIN)), 0))
    wide = np.maximum(ball - np.maximum(v - JOIN, 0) * JOIN / np.sqrt(1 - JOIN**2), 1e-3)
    around = np.arcsin(np.clip(u / wide, -1, 1))
    stripe = smoothstep(0.15, 0.45, -np.cos(GORES * around))
    paint = PAINT[spec.colour or COLOURS[0]]
    pale = paint + 0.68 * (np.array((1.0, 0.97, 0.85), np.float32) - paint)
    tone = paint + (pale - paint) * stripe[..., None]
    shade = np.clip(0.98 - 0.28 * u - 0.16 * v * (v > 0) - 0.2 * u**2, 0.35, 1.1)
    glow = burning * np.exp(-np.square((v - 1.1) / 1.1) - np.square(u / 1.0))
    lit = shade[..., None] * _light(spec) + 0.75 * glow[..., None] * np.array((1.0, 0.75, 0.4), np.float32)
    outside = np.maximum(np.maximum(np.abs(u) - wide, v - MOUTH), -1 - v)
    return np.clip(tone * lit, 0, 1).astype(np.float32), smoothstep(edge, -edge, outside).astype(np.float32)


def _basket(spec: SceneSpec, u: Field, v: Field, edge: float) -> tuple[Field, Field]:
    """Colour (3,) and coverage (T, h, w) of the basket and the ropes that carry it."""
    low, high = BASKET
    basket = np.maximum(np.abs(u) - 0.24, np.abs(v - (low + high) / 2) - (high - low) / 2)
    ropes = np.maximum(np.abs(np.abs(u) - 0.21) - 0.025, np.abs(v - (MOUTH + low) / 2) - (low - MOUTH) / 2)
    wicker = np.array((0.4, 0.22, 0.1), np.float32) * (0.3 + 0.7 * _light(spec))
    return wicker, smoothstep(edge, -edge, np.minimum(basket, ropes)).astype(np.float32)


def _flame(u: Field, v: Field, burning: Field) -> tuple[Field, Field]:
    """Colour (T, h, w, 3) and opacity (T, h, w) of the flame above the burner and the glare around it."""
    tall = 0.45 + 0.75 * burning
    height = (BURNER - v) / tall
    body = 0.24 * np.sqrt(np.clip(height + 0.05, 0, 1)) * np.sqrt(np.clip(1.05 - height, 0, 1)) * 1.6
    inside = smoothstep(1.1, 0.6, np.abs(u) / np.maximum(body, 1e-3)) * (height > -0.05) * (height < 1.05)
    glare = 0.5 * np.exp(-(np.square(u) + np.square(v - BURNER + 0.35)) / 0.22)
    core = np.clip(inside, 0, 1)[..., None]
    colour = np.array((1.0, 0.62, 0.15), np.float32) + core * np.array((0.0, 0.3, 0.4), np.float32)
    lit = np.clip(burning * 2.5, 0, 1)
    return colour.astype(np.float32), (lit * np.maximum(inside, glare)).astype(np.float32)


def _sound(spec: SceneSpec, canvas: Canvas, starts: list[int], flight: Flight) -> Field:
    """The roar of the gas jets while they burn, with a thump when they light, and the pilot flame's hum, (2, N)."""
    rng, count, strong = canvas.rng, canvas.num_samples, spec.strength == "strong"
    t = np.arange(count, dtype=np.float32) / SAMPLE_RATE
    open_ = np.repeat(flight.fire > 0.5, -(-count // canvas.num_frames))[:count].astype(np.float32)
    valve = lowpass(open_, 18.0)
    # A jet that big burns in pulses: the flutter tells it from steady wind and water.
    flutter = 1 + 0.75 * np.sin(2 * np.pi * 31.0 * t + 2.0 * np.sin(2 * np.pi * 2.3 * t))
    jet = 0.22 * noise_band(rng, count, 130, 1400, -2) * flutter
    hum = 0.012 * (np.sin(2 * np.pi * 98.0 * t) + 0.6 * np.sin(2 * np.pi * 196.0 * t))
    track = (jet * valve * (1.0 if strong else 0.55) + hum * (1.0 if strong else 0.5)).astype(np.float32)
    thump = noise_band(rng, 24_000, 40, 160) * decay(24_000, 0.004, 0.09)
    for start in starts:
        add_at(track, canvas.sample_of(start), (0.5 if strong else 0.28) * thump)
    track *= DISTANCE_GAIN[spec.distance]
    return limit(pan(lowpass(track, 900) if spec.distance == "far" else track, canvas.frame_envelope(flight.x)))
