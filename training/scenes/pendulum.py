"""A pendulum clock on a wall: a brass disc swings under a white dial, ticking where it turns.

The rod's angle is that of a small pendulum, swing * cos(pi * frame / beat): it turns every ``beat`` frames, a whole
number, so that each tick (at the left) and tock (at the right) falls on the frame of its turning point. A wider swing
(``strength``) hits the escapement harder: it is louder, not faster.
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
    decay,
    enlarge,
    limit,
    lowpass,
    over,
    pan,
    smoothstep,
)

FAMILY = "pendulum"
VARIES = frozenset({"time_of_day", "distance", "side", "strength"})
SUBJECTS = ("a pendulum", "a swinging pendulum", "a clock with a pendulum", "the pendulum of a clock")

SCALE = {"near": 1.0, "far": 0.46}
"""Height of the clock, as a share of the picture's."""
SWING = {"weak": 0.08, "strong": 0.2}
"""Largest angle of the rod, radians."""
PIVOT, LENGTH, DISC = 0.2, 0.6, 0.12
"""Height of the pivot below the clock's top, length of the rod and radius of the disc, in clock heights."""
CASE = 0.265
"""Half width of the case, in clock heights."""
WALLS = ((0.86, 0.8, 0.66), (0.7, 0.8, 0.74), (0.72, 0.78, 0.86))
WOOD, INSIDE = np.array((0.36, 0.17, 0.07), np.float32), np.array((0.13, 0.06, 0.03), np.float32)
BRASS, DIAL, HANDS = ((1.0, 0.76, 0.2), (0.97, 0.95, 0.88), (0.05, 0.04, 0.04))


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Near: the clock is as high as the picture. Far: a small one on a wide wall."""
    rng = canvas.rng
    scale = SCALE[spec.distance]
    place = SIDE_POSITION[spec.side] + rng.uniform(-0.02, 0.02)
    top = 0.5 - 0.5 * scale + rng.uniform(-0.02, 0.02)
    beat = int(rng.integers(8, 11))
    first = int(rng.integers(0, beat))
    frame = np.arange(canvas.num_frames)
    angle = SWING[spec.strength] * np.cos(np.pi * (frame - first) / beat).astype(np.float32)
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    x, y = half.grid
    across, down = (x - place) / scale, (y - top) / scale
    still = _clock(spec, half, across, down)
    frames = enlarge(_swinging(still, across, down, angle, _shine(spec), 1.5 / (half.size * scale)))
    turns = range(first, canvas.num_frames, beat)
    events = [_event(at, (at - first) // beat, place, SWING[spec.strength] * LENGTH * scale) for at in turns]
    return Clip(np.clip(frames, 0, 1), _sound(spec, canvas, events), events)


def _event(frame: int, number: int, place: float, reach: float) -> Event:
    """Every other turning point is at the right, beginning with the first: see the sign of the angle."""
    return Event(frame, "tock", place + reach) if number % 2 == 0 else Event(frame, "tick", place - reach)


def _light(spec: SceneSpec) -> Field:
    """Light in the room, (3,): what comes through a window, at night the moon's."""
    return 0.12 + 0.88 * np.array(LIGHT[spec.time_of_day], np.float32)


def _shine(spec: SceneSpec) -> Field:
    """Light on dial and brass, (3,): at night they are lit by a lamp in the case."""
    return np.array((0.8, 0.68, 0.5), np.float32) if spec.time_of_day == "night" else _light(spec)


def _clock(spec: SceneSpec, canvas: Canvas, across: Field, down: Field) -> Field:
    """Wall, case and dial, (h, w, 3); the coordinates are in clock heights from the middle of its top."""
    rng, edge = canvas.rng, 1.5 / (canvas.size * SCALE[spec.distance])
    wall = np.array(WALLS[int(rng.integers(len(WALLS)))], np.float32)
    picture = np.broadcast_to(wall * (1.04 - 0.12 * canvas.grid[1][..., None]), (canvas.size, canvas.size, 3))
    shadow = _box(across - 0.025, down - 0.52, CASE, 0.48, 0.04)
    picture = over(picture, 0.5 * picture, shadow)
    picture = over(picture, WOOD, _box(across, down - 0.5, CASE, 0.47, edge))
    picture = over(picture, INSIDE, _box(across, down - 0.69, CASE - 0.035, 0.24, edge))
    from_dial = np.hypot(across, down - PIVOT)
    picture = picture * _light(spec)
    for radius, colour in ((0.175, BRASS), (0.155, DIAL)):
        picture = over(
            picture, np.array(colour, np.float32) * _shine(spec), smoothstep(edge, -edge, from_dial - radius)
        )
    for turn, long in ((rng.uniform(0, 2 * np.pi), 0.09), (rng.uniform(0, 2 * np.pi), 0.13)):
        hand = _rod(across, down - PIVOT, turn, long, 0.011, edge)
        picture = over(picture, np.array(HANDS, np.float32), hand)
    return picture.astype(np.float32)


def _swinging(still: Field, across: Field, down: Field, angle: Field, light: Field, edge: float) -> Field:
    """Rod and disc in each frame over the still clock, (T, h, w, 3). Below the dial only: the dial hides the pivot."""
    turn = angle[:, None, None]
    open_ = smoothstep(-edge, edge, np.hypot(across, down - PIVOT) - 0.175)
    rod = _rod(across, down - PIVOT, turn, LENGTH, 0.018, edge) * open_
    u, v = across - LENGTH * np.sin(turn), down - PIVOT - LENGTH * np.cos(turn)
    away = np.hypot(u, v) / DISC
    shine = np.clip(1.0 - 0.45 * away**2 + 0.5 * np.exp(-((u + 0.045) ** 2 + (v + 0.045) ** 2) / 0.003), 0, 1.3)
    brass = np.array(BRASS, np.float32) * light
    frames = over(still, 0.75 * brass, rod)
    disc = smoothstep(edge / DISC, -edge / DISC, away - 1)
    return over(frames, (brass * shine[..., None]).astype(np.float32), disc).astype(np.float32)


def _box(u: Field, v: Field, wide: float, high: float, edge: float) -> Field:
    """Coverage of an upright rectangle of half sizes ``wide`` and ``high``."""
    return smoothstep(edge, -edge, np.maximum(np.abs(u) - wide, np.abs(v) - high))


def _rod(u: Field, v: Field, turn: Field | float, length: float, half_width: float, edge: float) -> Field:
    """Coverage of a bar from (0, 0), ``length`` long, turned from straight down to the right."""
    along = u * np.sin(turn) + v * np.cos(turn)
    beside = u * np.cos(turn) - v * np.sin(turn)
    inside = np.maximum(np.abs(beside) - half_width, np.abs(along - length / 2) - length / 2)
    return smoothstep(edge, -edge, inside)


def _sound(spec: SceneSpec, canvas: Canvas, events: list[Event]) -> Field:
    """A dry tick, high, and a tock, lower, of a wooden case, where the disc turns; nothing between them, (2, N)."""
    track = np.zeros((2, canvas.num_samples), np.float32)
    struck = {"tick": _knock(canvas.rng, 3400.0, 520.0), "tock": _knock(canvas.rng, 2200.0, 340.0)}
    for event in events:
        add_at(track, canvas.sample_of(event.frame), pan(struck[event.kind], event.position))
    track *= DISTANCE_GAIN[spec.distance] * STRENGTH_GAIN[spec.strength]
    return limit(lowpass(track, 6000) if spec.distance == "far" else track)


def _knock(rng: np.random.Generator, click_hz: float, case_hz: float) -> Field:
    """A click of metal on metal that the case answers, (N,)."""
    count = SAMPLE_RATE // 2
    t = np.arange(count, dtype=np.float32) / SAMPLE_RATE
    click_hz, case_hz = click_hz * rng.uniform(0.9, 1.1), case_hz * rng.uniform(0.9, 1.1)
    click = np.sin(2 * np.pi * click_hz * t) + 0.5 * np.sin(2 * np.pi * 2.7 * click_hz * t)
    case = np.sin(2 * np.pi * case_hz * t) + 0.6 * np.sin(2 * np.pi * 1.6 * case_hz * t)
    scratch = rng.standard_normal(count).astype(np.float32) * decay(count, 0.0003, 0.003)
    wave = 0.45 * click * decay(count, 0.0005, 0.012) + 0.25 * case * decay(count, 0.001, 0.03) + 0.6 * scratch
    return wave + 0.02 * case * decay(count, 0.001, 0.16)
