"""A tornado: a dark funnel from a storm cloud down to the fields, turning, wandering and throwing up dust at its foot.

The surface of the funnel is a texture wound round it: read at the angle that faces us less the turn so far, so its
bands run across in front and their drift is the spin. The same turns beat in its roar, a low noise that pulses once a
turn and comes from where the foot stands.
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
    Field,
    SceneSpec,
    enlarge,
    fractal,
    limit,
    lowpass,
    noise_band,
    over,
    pan,
    ramp,
    sample,
    slow_noise,
    smoothstep,
)
from training.scenes.shapes import splat

FAMILY = "tornado"
VARIES = frozenset({"time_of_day", "distance", "side", "strength"})
SUBJECTS = (
    "a tornado",
    "a twister",
    "a tornado over the fields",
    "a funnel cloud touching the ground",
    "a dark tornado under a storm cloud",
)

SKY = {"day": ((0.5, 0.58, 0.56), (0.93, 0.93, 0.8)), "sunset": ((0.5, 0.34, 0.4), (1.0, 0.66, 0.26))}
"""Under the cloud and at the horizon."""
DARK = {"day": (0.1, 0.12, 0.15), "sunset": (0.11, 0.08, 0.12)}
PALE = {"day": (0.4, 0.43, 0.46), "sunset": (0.46, 0.31, 0.28)}
"""Shaded and lit side of cloud and funnel."""
TURNS_PER_SECOND = {"weak": 1.6, "strong": 2.6}
WIDTH = {"weak": 0.044, "strong": 0.105}
"""Half width halfway up, near."""


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Weak: a thin rope. Strong: a broad funnel with much dust. Near: it fills the picture from top to bottom."""
    rng, near = canvas.rng, spec.distance == "near"
    scale = (1.0 if near else 0.42) * rng.uniform(0.94, 1.06)
    base, ground = (
        (rng.uniform(0.2, 0.24), rng.uniform(0.85, 0.88))
        if near
        else (rng.uniform(0.42, 0.45), rng.uniform(0.71, 0.74))
    )
    wander = 0.045 * slow_noise(rng, canvas.num_frames, 1.2 * canvas.fps)
    drift = rng.uniform(-0.02, 0.02) * (canvas.seconds - canvas.seconds.mean())
    foot = (SIDE_POSITION[spec.side] + np.clip(wander + drift, -0.09, 0.09) * (0.6 + 0.4 * scale)).astype(np.float32)
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    turn = (TURNS_PER_SECOND[spec.strength] * rng.uniform(0.9, 1.1) * canvas.seconds).astype(np.float32)
    frames = np.repeat(_country(spec, half, ground)[None], canvas.num_frames, axis=0)
    frames = over(frames, *_funnel(spec, half, foot, turn, base, ground, scale))
    frames = over(frames, *_storm(spec, half, base))
    frames = over(frames, *_dust(spec, half, foot, ground, scale))
    frames = over(frames, np.array(DARK[spec.time_of_day], np.float32), _debris(spec, half, foot, turn, ground, scale))
    return Clip(np.clip(enlarge(frames.astype(np.float32)), 0, 1), _sound(spec, canvas, foot, turn))


def _country(spec: SceneSpec, canvas: Canvas, ground: float) -> Field:
    """A pale strip of sky under the storm and flat fields, (h, w, 3)."""
    rng, (x, y) = canvas.rng, canvas.grid
    horizon = ground - 0.03
    picture = np.broadcast_to(
        ramp(y / horizon, (0.15, SKY[spec.time_of_day][0]), (1.0, SKY[spec.time_of_day][1])),
        (canvas.size, canvas.size, 3),
    )
    texture = fractal(rng, 128, 1.6)
    earth = np.array(((0.42, 0.46, 0.2), (0.56, 0.46, 0.24))[int(rng.integers(2))], np.float32)
    fields = (
        0.8 * earth * np.array(LIGHT[spec.time_of_day], np.float32) * (1 + 0.12 * sample(texture, x, 5 * y))[..., None]
    )
    return over(picture, fields.astype(np.float32), smoothstep(-0.005, 0.005, y - horizon + 0 * x))


def _storm(spec: SceneSpec, canvas: Canvas, base: float) -> tuple[Field, Field]:
    """Colour (T, h, w, 3) and coverage (T, h, w) of the cloud above, whose ragged base drags along."""
    rng, (x, y) = canvas.rng, canvas.grid
    t = canvas.seconds[:, None, None]
    texture = fractal(rng, 128, 1.9)
    billow = sample(texture, 0.8 * x + 0.03 * t, 1.6 * y + 0.015 * t)
    edge = base + 0.03 * sample(texture, 0.9 * x + 0.05 * t, np.float32(0.4))
    colour = ramp(0.4 + 0.22 * billow - 0.35 * y / base, (0.0, DARK[spec.time_of_day]), (1.0, PALE[spec.time_of_day]))
    return colour, smoothstep(0.03, -0.03, y - edge)


def _funnel(
    spec: SceneSpec, canvas: Canvas, foot: Field, turn: Field, base: float, ground: float, scale: float
) -> tuple[Field, Field]:
    """Colour (T, h, w, 3) and coverage (T, h, w): its upper parts follow the foot late, so it bends as it wanders."""
    rng, (x, y) = canvas.rng, canvas.grid
    up = np.clip((ground - y) / (ground - base), 0, 1.1)
    late = np.arange(canvas.num_frames)[:, None] - 0.9 * canvas.fps * up.T[0][None, :]
    middle = np.interp(late, np.arange(canvas.num_frames), foot)[..., None]
    middle = middle + rng.uniform(-0.08, 0.08) * scale * np.sin(2.6 * up)
    rope = 0.012 * scale * np.sin(2 * np.pi * (1.3 * up + 0.35 * turn[:, None, None]))
    width = WIDTH[spec.strength] * scale * (0.34 + 0.75 * up + 1.5 * np.maximum(up - 0.72, 0) ** 1.5 * 2)
    u = (x - middle - rope * (1 - 0.5 * up)) / width
    texture = fractal(rng, 128, 1.5, 2)
    angle = np.arcsin(np.clip(u, -1, 1)) / (2 * np.pi)
    bands = sample(texture, angle - turn[:, None, None] + 0.6 * up, 0.5 * up + 0.1 * angle + 0 * u)
    ragged = 1 + 0.09 * bands
    shade = 0.36 - 0.42 * u * np.sqrt(np.clip(1 - 0.5 * u**2, 0, 1)) + 0.3 * bands
    cover = smoothstep(1.08, 0.86, np.abs(u) / ragged) * smoothstep(0.01, -0.01, y - ground)
    return ramp(shade, (0.0, DARK[spec.time_of_day]), (1.0, PALE[spec.time_of_day])), cover


def _dust(spec: SceneSpec, canvas: Canvas, foot: Field, ground: float, scale: float) -> tuple[Field, Field]:
    """Colour (T, h, w, 3) and opacity (T, h, w) of the earth that billows round the foot."""
    rng, (x, y) = canvas.rng, canvas.grid
    t = canvas.seconds[:, None, None]
    size = scale * (1.0 if spec.strength == "strong" else 0.5)
    texture = fractal(rng, 128, 1.7, 1)
    u, v = (x - foot[:, None, None]) / (0.2 * size), (y - ground + 0.035 * size) / (0.085 * size)
    billow = sample(texture, 0.25 * u + 0.8 * t, 0.3 * v + 0.35 * t)
    cover = smoothstep(0.12, 0.75, np.exp(-(u**2) - v**2) * (1.25 + 0.4 * billow))
    brown = np.array((0.52, 0.4, 0.26), np.float32) * (0.5 + 0.5 * np.array(LIGHT[spec.time_of_day], np.float32))
    return ((0.9 + 0.16 * billow)[..., None] * brown).astype(np.float32), (0.95 * cover).astype(np.float32)


def _debris(spec: SceneSpec, canvas: Canvas, foot: Field, turn: Field, ground: float, scale: float) -> Field:
    """Opacity of planks and branches that circle the foot, (T, h, w)."""
    rng, count = canvas.rng, 26 if spec.strength == "strong" else 7
    reach = rng.uniform(0.08, 0.22, count) * scale * (1.0 if spec.strength == "strong" else 0.5)
    rise = rng.uniform(0.0, 0.16, count) * scale
    angle = 2 * np.pi * (0.45 * turn[:, None] * rng.uniform(0.7, 1.3, count) + rng.random(count))
    x, y = foot[:, None] + reach * np.cos(angle), ground - rise - 0.25 * reach * np.sin(angle)
    frame = np.broadcast_to(np.arange(canvas.num_frames)[:, None], x.shape).ravel()
    radius = np.full(x.size, max(1.0 * scale, 0.5) * canvas.size / 128)
    return np.clip(
        splat(frame, x.ravel(), y.ravel(), radius, np.full(x.size, 0.9), canvas.num_frames, canvas.size), 0, 1
    )


def _sound(spec: SceneSpec, canvas: Canvas, foot: Field, turn: Field) -> Field:
    """A roar of the lowest two octaves that beats once a turn, a growl with it and the rush of the earth that it
    carries, from where the foot is, (2, N)."""
    rng, count, strong = canvas.rng, canvas.num_samples, spec.strength == "strong"
    turns = (
        TURNS_PER_SECOND[spec.strength]
        * np.arange(count)
        / SAMPLE_RATE
        * float(turn[-1] / max(TURNS_PER_SECOND[spec.strength] * canvas.seconds[-1], 1e-6))
    )
    beat = (0.5 + 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32) ** 2
    track = 0.3 * noise_band(rng, count, 38, 150, -2) * (0.25 + beat)
    track += 0.1 * noise_band(rng, count, 150, 420, -3) * (0.1 + beat)
    track += 0.06 * noise_band(rng, count, 420, 1300, -3) * (0.15 + beat)
    track *= (1.0 if strong else 0.42) * DISTANCE_GAIN[spec.distance]
    if spec.distance == "far":
        track = lowpass(track, 1600)
    return limit(pan(track.astype(np.float32), canvas.frame_envelope(foot)))
