"""A lighthouse on a rock by the sea: its beam turns, and the foghorn sounds each time the lamp looks at the viewer.

The lamp turns evenly. Its beam is a cone seen from the side: sideways it is long and narrow, towards the viewer it
shortens, opens and becomes a glare around the lamp. By day only the glare is seen, a blink a turn. The turn takes a
whole number of frames, so that horn and glare begin in one frame. A ``strong`` lamp reaches far, and so does its horn.
"""

from __future__ import annotations

import numpy as np

from training.scenes.base import (
    DISTANCE_GAIN,
    LIGHT,
    SAMPLE_RATE,
    SIDE_POSITION,
    STRENGTH_GAIN,
    Canvas,
    Clip,
    Event,
    Field,
    SceneSpec,
    add_at,
    diffuse,
    enlarge,
    fractal,
    limit,
    lowpass,
    over,
    pan,
    polygons,
    sample,
    sky,
    smoothstep,
)
from training.scenes.shapes import star_layers

FAMILY = "lighthouse"
VARIES = frozenset({"time_of_day", "distance", "side", "strength"})
SUBJECTS = ("a lighthouse", "a lighthouse on a rock", "a lighthouse by the water", "a tall lighthouse")

SCALE = {"near": 1.0, "far": 0.46}
TOWER, FOOT_WIDTH, TOP_WIDTH, BANDS = 0.56, 0.1, 0.062, 5
"""Height of the tower and its half widths when near, as shares of the picture; bands from foot to top."""
LAMP = 0.615
"""Height of the lamp above the foot."""
HORIZON = 0.7
BEAM = {"day": 0.0, "sunset": 0.85, "night": 0.95}
RED, WHITE, DARK = ((0.82, 0.09, 0.07), (0.96, 0.95, 0.92), (0.1, 0.1, 0.12))
LAMPLIGHT = np.array((1.0, 0.93, 0.62), np.float32)


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Near: the tower is three quarters of the picture high. Far: it stands small on the horizon."""
    rng, scale = canvas.rng, SCALE[spec.distance]
    place = SIDE_POSITION[spec.side] + rng.uniform(-0.025, 0.025)
    foot = (0.84 if spec.distance == "near" else HORIZON + 0.01) + rng.uniform(-0.015, 0.015)
    period, first = int(rng.integers(28, 35)), int(rng.integers(2, 10))
    turn = 2 * np.pi * (np.arange(canvas.num_frames, dtype=np.float32) - first) / period
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    frames = over(_sea(spec, half), *_rock(spec, half, place, foot, scale))
    air = (place, foot - LAMP * scale)
    beam = _beam(spec, half, turn, air)
    frames = over(frames, LAMPLIGHT, beam)
    for colour, cover in _tower(spec, half, place, foot, scale):
        frames = over(frames, colour, cover)
    frames = enlarge(over(frames, LAMPLIGHT, _glare(spec, half, turn, air, scale)).astype(np.float32))
    events = [Event(frame, "foghorn", place) for frame in range(first, canvas.num_frames, period)]
    return Clip(np.clip(frames, 0, 1), _sound(spec, canvas, events, place), events)


def _light(spec: SceneSpec) -> Field:
    """Light on tower and rock, (3,): at night the moon's."""
    return 0.3 + 0.7 * np.array(LIGHT[spec.time_of_day], np.float32)


def _sea(spec: SceneSpec, canvas: Canvas) -> Field:
    """Sky above a sea whose ripples run towards the viewer, (T, h, w, 3)."""
    rng, (x, y) = canvas.rng, canvas.grid
    picture = sky(canvas, spec.time_of_day, HORIZON)
    if spec.time_of_day == "night":
        picture += 0.6 * star_layers(rng, canvas, 40, groups=1)[0][..., None]
    frames = np.repeat(picture[None], canvas.num_frames, axis=0)
    first = int(HORIZON * canvas.size)
    depth = y[first:] - HORIZON + 0.02
    texture = fractal(rng, 128, 1.5, 2)
    ripple = sample(texture, 0.12 * x / depth, 0.1 / depth + 0.12 * canvas.seconds[:, None, None])
    swell = (0.1 if spec.strength == "strong" else 0.05) * ripple[..., None]
    water = np.array((0.08, 0.28, 0.42), np.float32) * (1 + 2.5 * swell) + 0.4 * np.maximum(swell, 0)
    frames[:, first:] = water * (0.12 + 0.88 * np.array(LIGHT[spec.time_of_day], np.float32))
    return frames


def _rock(spec: SceneSpec, canvas: Canvas, place: float, foot: float, scale: float) -> tuple[Field, Field]:
    """Colour and coverage (h, w) of the rock under the tower: a rugged mound."""
    x, y = canvas.grid
    texture = fractal(canvas.rng, 128, 1.4, 2)
    away = np.abs(x - place) / (0.3 * scale)
    top = foot - 0.02 * scale + 0.17 * scale * np.maximum(away - 0.3, 0) ** 1.5
    top = top + 0.012 * scale * sample(texture, x / scale, np.float32(0.3))
    grey = np.array((0.36, 0.32, 0.29), np.float32) * (0.9 + 0.25 * sample(texture, x, 1.5 * y))[..., None]
    bottom = foot + 0.12 * scale if spec.distance == "far" else 2.0
    return (grey * _light(spec)).astype(np.float32), smoothstep(-0.01, 0.01, np.minimum(y - top, bottom - y))


def _tower(spec: SceneSpec, canvas: Canvas, place: float, foot: float, scale: float) -> list[tuple[Field, Field]]:
    """(colour, coverage) of banded tower, gallery, lantern and cap, to be laid over each other."""
    x, _ = canvas.grid
    light = _light(spec)
    shade = np.clip(1.0 - 3.2 * (x - place) / scale, 0.5, 1.05)[..., None]
    layers = []
    for band in range(BANDS):
        low, high = band / BANDS, (band + 1) / BANDS
        wide = [FOOT_WIDTH + (TOP_WIDTH - FOOT_WIDTH) * share for share in (low, high)]
        cover = _trapezium(canvas, place, foot, scale, (low * TOWER, high * TOWER), (wide[0], wide[1]))
        colour = np.array(RED if band % 2 == 0 else WHITE, np.float32)
        layers.append(((colour * shade * light).astype(np.float32), cover))
    parts = (
        (DARK, (0.555, 0.58), (0.09, 0.09)),
        (tuple(LAMPLIGHT), (0.58, 0.65), (0.05, 0.05)),
        (RED, (0.65, 0.72), (0.072, 0.008)),
    )
    for colour_of, heights, widths in parts:
        bright = 1.0 if heights[0] == 0.58 else light
        layers.append(
            (np.array(colour_of, np.float32) * bright, _trapezium(canvas, place, foot, scale, heights, widths))
        )
    return layers


def _trapezium(
    canvas: Canvas,
    place: float,
    foot: float,
    scale: float,
    heights: tuple[float, float],
    half_widths: tuple[float, float],
) -> Field:
    """Coverage (h, w) of an upright part of the tower between two heights above its foot."""
    (low, high), (below, above) = heights, half_widths
    corners = [(-below, low), (below, low), (above, high), (-above, high)]
    return polygons(canvas.size, [[(place + scale * x, foot - scale * y) for x, y in corners]])


def _beam(spec: SceneSpec, canvas: Canvas, turn: Field, lamp: tuple[float, float]) -> Field:
    """Opacity of the cone of light, (T, h, w): right of the lamp while sin(turn) > 0, then left."""
    x, y = canvas.grid
    strong = spec.strength == "strong"
    sideways = np.sin(turn)[:, None, None]
    short = np.maximum(np.abs(sideways), 0.08)
    along = (x - lamp[0]) * np.sign(sideways)
    opening = (0.16 if strong else 0.1) / short * np.maximum(along, 0) + 0.012
    wedge = smoothstep(1.0, 0.55, np.abs(y - lamp[1]) / opening) * (along > 0)
    reach = (0.85 if strong else 0.28) * short
    fade = np.exp(-np.maximum(along, 0) / reach) * (1.0 if strong else 0.7)
    return (BEAM[spec.time_of_day] * wedge * fade).astype(np.float32)


def _glare(spec: SceneSpec, canvas: Canvas, turn: Field, lamp: tuple[float, float], scale: float) -> Field:
    """Opacity of the light around the lamp, (T, h, w): little, and much while the lamp looks at the viewer."""
    x, y = canvas.grid
    facing = np.maximum(np.cos(turn), 0)[:, None, None] ** 10
    size = (0.17 if spec.strength == "strong" else 0.09) * scale**0.6
    around = np.square(x - lamp[0]) + np.square(y - lamp[1])
    steady = 0.5 * np.exp(-around / (0.045 * scale) ** 2)
    return np.clip(steady + 1.3 * facing * np.exp(-around / size**2), 0, 1).astype(np.float32)


def _sound(spec: SceneSpec, canvas: Canvas, events: list[Event], place: float) -> Field:
    """A long low horn a turn, and a quiet wash of the water, (2, N)."""
    rng = canvas.rng
    wash = 1 + 0.5 * np.sin(2 * np.pi * (np.arange(canvas.num_samples) / SAMPLE_RATE / 3.1 + rng.random()))
    track = diffuse(rng, (0.012 * wash).astype(np.float32), 200, 1500, -3)
    horn = _horn(rng)
    for event in events:
        add_at(track, canvas.sample_of(event.frame), pan(horn, place))
    track *= DISTANCE_GAIN[spec.distance] * STRENGTH_GAIN[spec.strength]
    return limit(lowpass(track, 700) if spec.distance == "far" else track)


def _horn(rng: np.random.Generator) -> Field:
    """A reed at 100 to 130 Hz with all its harmonics, which swells at once and dies away, (N,)."""
    count = int(1.9 * SAMPLE_RATE)
    t = np.arange(count, dtype=np.float32) / SAMPLE_RATE
    base = rng.uniform(100, 130)
    # The air pressure drops at the end, and the pitch with it.
    cycles = base * (t - 0.03 * np.maximum(t - 1.2, 0) ** 2)
    harmonics = [np.sin(2 * np.pi * k * cycles) / k**0.8 * np.exp(-((k / 7) ** 2)) for k in range(1, 13)]
    envelope = smoothstep(0.0, 0.05, t) * smoothstep(1.75, 1.35, t)
    return np.asarray(0.3 * sum(harmonics) * envelope, np.float32)
