"""A campfire: flames of hot gas that rise, are torn by turbulence and flare when a log cracks.

Gas heated at the logs rises and cools, so colour goes from pale yellow (hot, low) to dark red (cool, high). The
turbulence is a texture carried upwards. A crack throws a handful of sparks and feeds the flame for a moment: the same
number per frame (``flare``) drives the height of the flame, the light on the ground and the roar.
"""

from __future__ import annotations

import numpy as np

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
    dots,
    enlarge,
    fractal,
    limit,
    lowpass,
    noise_band,
    over,
    pan,
    polygons,
    ramp,
    sample,
    sky,
    slow_noise,
    smoothstep,
)

FAMILY = "fire"
VARIES = frozenset({"time_of_day", "distance", "side", "strength"})
SUBJECTS = ("a campfire", "a burning wood fire", "a crackling log fire")

BACKGROUND_GAIN = 0.4
"""Level of the sound of a scene behind the fire, -8 dB."""

FLAME = ((0.0, (0.7, 0.08, 0.01)), (0.3, (1.0, 0.36, 0.03)), (0.66, (1.0, 0.7, 0.14)), (1.08, (1.0, 0.95, 0.66)))
GLOW = np.array((1.0, 0.46, 0.12), np.float32)
GLOW_STRENGTH = {"day": 0.12, "sunset": 0.3, "night": 0.55}


def render(spec: SceneSpec, canvas: Canvas, background: Clip | None = None) -> Clip:
    """A fire of its own, or one laid over ``background`` (whose sound is kept, 8 dB quieter)."""
    rng = canvas.rng
    place = SIDE_POSITION[spec.side] + rng.uniform(-0.04, 0.04)
    scale = (1.0 if spec.distance == "near" else 0.42) * rng.uniform(0.9, 1.08)
    foot = 0.87 if spec.distance == "near" else 0.8 if background is None else 0.86
    tall = (0.6 if spec.strength == "strong" else 0.3) * scale
    cracks = _cracks(canvas, spec.strength)
    flare = _flare(canvas, cracks)
    frames = _landscape(spec, canvas)[None] if background is None else background.frames
    frames = _light(frames, spec, canvas, flare, place, foot, tall)
    colour, alpha = _flames(canvas, flare, place, foot - 0.025 * scale, tall, 0.8 * scale)
    frames = over(frames, colour, alpha)
    _logs(frames, spec, canvas, flare, place, foot, scale)
    _sparks(frames, canvas, cracks, place, foot, tall, scale)
    sound = _sound(spec, canvas, flare, cracks, place)
    if background is not None:
        sound = sound + BACKGROUND_GAIN * background.sound
    events = [Event(frame, "crackle", place) for frame in cracks]
    return Clip(np.clip(frames, 0, 1).astype(np.float32), limit(sound), events)


def _cracks(canvas: Canvas, strength: str) -> list[int]:
    """Frames at which a log cracks, at least a third of a second apart."""
    every = canvas.fps * (0.75 if strength == "strong" else 1.5)
    frames, at = [], canvas.rng.uniform(0.1, 0.6) * every
    while at < canvas.num_frames:
        frames.append(int(at))
        at += max(canvas.fps / 3, every * canvas.rng.uniform(0.5, 1.5))
    return frames


def _flare(canvas: Canvas, cracks: list[int]) -> Field:
    """Vigour of the fire per frame: about 1 and wandering, with a short jump at each crack."""
    vigour = 1.0 + 0.08 * slow_noise(canvas.rng, canvas.num_frames, 2.0)
    age = np.arange(canvas.num_frames)
    for frame in cracks:
        vigour += np.where(age >= frame, 0.35 * np.exp(-(age - frame) / (0.25 * canvas.fps)), 0.0).astype(np.float32)
    return np.maximum(vigour, 0.6).astype(np.float32)


def _landscape(spec: SceneSpec, canvas: Canvas) -> Field:
    """Sky, a line of trees and a clearing, (H, W, 3)."""
    rng, (x, y) = canvas.rng, canvas.grid
    light = np.array(LIGHT[spec.time_of_day], np.float32)
    horizon = rng.uniform(0.56, 0.64)
    picture = sky(canvas, spec.time_of_day, horizon)
    texture = fractal(rng, canvas.size, 1.5)
    trees = (
        horizon
        - 0.1
        - 0.05 * sample(texture, x * 0.6, np.float32(0.3))
        - 0.02 * sample(texture, x * 3, np.float32(0.7))
    )
    forest = np.array((0.13, 0.24, 0.13), np.float32) * light * rng.uniform(0.8, 1.2)
    picture = over(picture, forest, smoothstep(-0.008, 0.008, y - trees))
    earth = np.array(((0.36, 0.42, 0.2), (0.5, 0.4, 0.28))[int(rng.integers(2))], np.float32)
    ground = earth * light * (1 + 0.09 * sample(texture, x * 0.8, y * 2.5))[..., None]
    return over(picture, ground, smoothstep(-0.01, 0.01, y - horizon - 0 * x))


def _light(
    frames: Field, spec: SceneSpec, canvas: Canvas, flare: Field, place: float, foot: float, tall: float
) -> Field:
    """Adds the glow in the air and the pool of light on the ground, (T, H, W, 3)."""
    x, y = canvas.grid
    air = np.exp(-((x - place) ** 2 + (y - foot + 0.45 * tall) ** 2) / (1.1 * tall) ** 2)
    pool = np.exp(-((x - place) ** 2 + (2.6 * (y - foot)) ** 2) / (1.5 * tall) ** 2) * smoothstep(-0.12, 0.02, y - foot)
    glow = GLOW_STRENGTH[spec.time_of_day] * (0.5 * air + 0.8 * pool)
    return frames + (flare[:, None, None] * glow)[..., None] * GLOW


def _flames(canvas: Canvas, flare: Field, place: float, foot: float, tall: float, scale: float) -> tuple[Field, Field]:
    """Colour (T, H, W, 3) and opacity (T, H, W): three tongues, bent by turbulence that rises with the gas."""
    rng, half = canvas.rng, Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, canvas.rng)
    x, y = half.grid
    t = canvas.seconds[:, None, None]
    texture = fractal(rng, 256, 1.7, 2)
    rise = rng.uniform(0.55, 0.8)
    bend = sample(texture, 0.35 * (x - place) / scale, 0.4 * y / scale + rise * t)
    lick = sample(texture, 0.9 * (x - place) / scale + 0.5, 0.5 * y / scale + 1.6 * rise * t)
    heat = np.full(bend.shape, -1.0, np.float32)
    lean = rng.uniform(-0.15, 0.15)
    for offset, share in ((0.0, 1.0), (-0.55, 0.62), (0.5, 0.7)):
        sway = 0.12 * slow_noise(rng, canvas.num_frames, 3.0)[:, None, None]
        v = (foot - y) / (tall * (share + rng.uniform(-0.08, 0.08)) * (0.75 + 0.25 * flare[:, None, None] + sway))
        up = np.clip(v, 0.0, 1.3)
        u = (x - place) / (0.2 * scale) - offset * (1 - 0.5 * up) - (0.42 * bend + lean + sway) * up
        width = 0.75 * np.maximum(1.12 - up, 0.02) ** 0.75
        cone = 1.0 * (1 - (u / width) ** 2) - 0.5 * up - 3.0 * np.maximum(v - 0.95, 0) + 0.2 * lick * (0.25 + up)
        heat = np.maximum(heat, cone)
    heat += 0.15 * (flare[:, None, None] - 1)
    alpha = smoothstep(0.0, 0.28, heat) * smoothstep(-0.02, 0.02, foot - y)
    return enlarge(ramp(heat, *FLAME)), enlarge(alpha.astype(np.float32))


def _logs(
    frames: Field, spec: SceneSpec, canvas: Canvas, flare: Field, place: float, foot: float, scale: float
) -> None:
    """Draws crossed logs with glowing cracks over the foot of the flames, in place."""
    rng, (x, _) = canvas.rng, canvas.grid
    ember = smoothstep(0.3, 1.4, fractal(rng, canvas.size, 1.3, 6))[..., None] * GLOW
    for angle in (0.3, -0.26, rng.uniform(-0.08, 0.08)):
        along = np.array((np.cos(angle), np.sin(angle))) * scale * rng.uniform(0.17, 0.22)
        across = np.array((-np.sin(angle), np.cos(angle))) * scale * 0.026
        centre = np.array((place + rng.uniform(-0.02, 0.02) * scale, foot - 0.025 * scale * (1 if angle else 0)))
        corners = [centre + along + across, centre + along - across, centre - along - across, centre - along + across]
        mask = polygons(canvas.size, [[(float(c[0]), float(c[1])) for c in corners]])
        bark = np.array((0.27, 0.16, 0.09), np.float32) * (0.35 + 0.65 * np.array(LIGHT[spec.time_of_day], np.float32))
        near = np.exp(-(((x - place) / (0.14 * scale)) ** 2))[..., None]
        lit = bark + flare[:, None, None, None] * near * (0.85 * ember + 0.12 * GLOW)
        frames[:] = over(frames, lit.astype(np.float32), mask)


def _sparks(
    frames: Field, canvas: Canvas, cracks: list[int], place: float, foot: float, tall: float, scale: float
) -> None:
    """Adds the sparks of every crack, which rise with the hot gas, slow down and go out, in place."""
    rng = canvas.rng
    born = np.concatenate([np.repeat(cracks, 14), rng.integers(-6, canvas.num_frames, canvas.num_frames // 3)])
    angle, speed = rng.normal(0, 0.55, born.shape), tall * rng.uniform(0.9, 2.6, born.shape)
    life = rng.uniform(0.4, 1.1, born.shape)
    start = foot - tall * rng.uniform(0.05, 0.35, born.shape)
    for frame in range(canvas.num_frames):
        age = (frame - born + 0.6) / canvas.fps
        alive = (frame >= born) & (age < life)
        way = speed * (1 - np.exp(-1.8 * age)) / 1.8 * 1.6
        x = place + way * np.sin(angle) + 0.012 * np.sin(9 * age + 7 * angle)
        weight = np.where(alive, 1.3 * (1 - age / life), 0.0)
        spot = dots(canvas.size, x, start - way * np.cos(angle), weight, canvas.size / 256 * (0.8 + 0.6 * scale))
        frames[frame] = over(frames[frame], np.array((1.0, 0.72, 0.25), np.float32), np.minimum(spot, 1.0))


def _sound(spec: SceneSpec, canvas: Canvas, flare: Field, cracks: list[int], place: float) -> Field:
    """Roar of the flame (follows its vigour), many small ticks and a loud crack with a thump at every crack, (2, N)."""
    rng, count = canvas.rng, canvas.num_samples
    strong = spec.strength == "strong"
    roar = 0.085 * noise_band(rng, count, 50, 420, -3) + 0.016 * noise_band(rng, count, 900, 7000, -3)
    track = (roar * canvas.frame_envelope(flare**2) * (1.0 if strong else 0.45)).astype(np.float32)
    for _ in range(rng.poisson((16 if strong else 7) * count / 48_000)):
        _tick(rng, track, int(rng.integers(count)), rng.uniform(0.02, 0.14), rng.uniform(0.001, 0.004))
    for frame in cracks:
        start = canvas.sample_of(frame)
        _tick(rng, track, start, rng.uniform(0.5, 0.7) * (1.0 if strong else 0.7), 0.012)
        add_at(track, start, 0.22 * noise_band(rng, 9600, 60, 260) * decay(9600, 0.002, 0.05))
        for _ in range(3):
            _tick(rng, track, start + int(rng.uniform(0.02, 0.16) * 48_000), rng.uniform(0.12, 0.3), 0.004)
    if spec.distance == "far":
        track = lowpass(track, 3500)
    return pan(track * DISTANCE_GAIN[spec.distance], place)


def _tick(rng: np.random.Generator, track: Field, start: int, level: float, seconds: float) -> None:
    """Adds one snap of wood: a burst of high noise, in place."""
    count = max(480, int(8 * seconds * 48_000))
    add_at(track, start, level * rng.standard_normal(count).astype(np.float32) * decay(count, 0.0002, seconds))
