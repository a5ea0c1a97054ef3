"""Fireworks over a dark skyline: a rising shell, a burst, sparks that slow down and fall.

A spark leaves the burst with a speed that air drag takes away (distance ~ 1 - exp(-k t)) and then sinks. The launch is
a whoosh, the burst a boom with a crackle of its dying sparks; far away they are quieter, duller and half a second late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    decay,
    diffuse,
    lowpass,
    noise_band,
    over,
    pan,
    ramp,
)
from training.scenes.shapes import below, doubled, ridge, splat, star_layers

FAMILY = "fireworks"
VARIES = frozenset({"distance", "side", "strength", "colour"})
SUBJECTS = (
    "fireworks",
    "a fireworks display",
    "fireworks in the sky",
    "a firework show",
    "bursting fireworks",
)

PER_SECOND = {"weak": 0.75, "strong": 1.6}
RADIUS = {"near": 0.28, "far": 0.15}
DELAY_SECONDS = {"near": 0.0, "far": 0.5}
RISE_FRAMES = 8
SPARK_FRAMES = 24
GROUND = 0.82
"""y from which the shells rise."""
SEA_HORIZON = 0.46
"""The same over a sea, where they are launched from the water."""
WATER = 0.8
"""y of the water line, where there is water."""

PALETTE = {
    "red": ((1.0, 0.16, 0.12), (1.0, 0.28, 0.16), (0.95, 0.12, 0.22)),
    "green": ((0.2, 1.0, 0.3), (0.3, 0.95, 0.2), (0.15, 0.95, 0.45)),
    "blue": ((0.22, 0.4, 1.0), (0.15, 0.5, 1.0), (0.32, 0.36, 1.0)),
    "golden": ((1.0, 0.72, 0.2), (1.0, 0.8, 0.34), (1.0, 0.62, 0.14)),
    "colourful": (
        (1.0, 0.25, 0.2),
        (0.3, 1.0, 0.4),
        (0.35, 0.5, 1.0),
        (1.0, 0.8, 0.3),
        (1.0, 0.35, 0.85),
        (0.9, 0.92, 1.0),
        (0.3, 0.95, 1.0),
    ),
}
"""Colours of the shells by the colour of the whole."""
COLOURS = tuple(PALETTE)


@dataclass(frozen=True)
class Shell:
    """One firework: frame and place of its burst, its size (share of the picture) and colour."""

    frame: int
    x: float
    y: float
    radius: float
    colour: Field


def render(spec: SceneSpec, canvas: Canvas, background: Clip | None = None) -> Clip:
    """Frames (T, H, W, 3) and sound (2, N); ``background`` is seen behind and below and heard beneath."""
    ground = SEA_HORIZON if background else GROUND
    shells = _shells(spec, canvas, ground)
    light = _sparks(canvas, shells) + _rises(canvas, shells, ground)[..., None]
    light += 0.35 * _glow(canvas, shells)
    frames = _over_background(canvas, light, background) if background else _over_city(canvas, light)
    sound, events = _sound(spec, canvas, shells)
    if background:
        sound += background.sound
    return Clip(np.clip(frames, 0, 1), np.tanh(sound).astype(np.float32), events)


def _shells(spec: SceneSpec, canvas: Canvas, ground: float) -> list[Shell]:
    """Bursts at nearly regular intervals from just before the first frame on."""
    rng = canvas.rng
    gap = canvas.fps / PER_SECOND[spec.strength]
    frames = np.arange(rng.uniform(-0.4, 0.25) * gap, canvas.num_frames, gap)
    low = ground * (0.42 if spec.distance == "near" else 0.6)
    palette = PALETTE[spec.colour or "colourful"]
    shells = []
    for frame in np.rint(frames + rng.uniform(-0.3, 0.3, len(frames)) * gap).astype(int):
        radius = RADIUS[spec.distance] * rng.uniform(0.8, 1.15) * (0.85 if spec.strength == "weak" else 1.0)
        colour = np.array(palette[rng.integers(len(palette))], np.float32)
        x = SIDE_POSITION[spec.side] + rng.uniform(-0.1, 0.1)
        shells.append(Shell(int(frame), float(x), float(rng.uniform(0.68 * low, low)), float(radius), colour))
    return shells


def _sparks(canvas: Canvas, shells: list[Shell]) -> Field:
    """Light of all sparks with short tails, (T, H, W, 3)."""
    rng = canvas.rng
    light = np.zeros((canvas.num_frames, canvas.size, canvas.size, 3), np.float32)
    for shell in shells:
        count = int(rng.integers(55, 80))
        direction = rng.standard_normal((count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        age = np.arange(SPARK_FRAMES)[:, None, None] + 0.6
        lag = np.linspace(0, 1.4, 5)[None, None, :]
        t = np.maximum(age - lag, 0) / canvas.fps
        out = shell.radius * (1 - np.exp(-3.5 * t)) * rng.uniform(0.85, 1.0, (1, count, 1))
        x = shell.x + out * direction[None, :, :1]
        y = shell.y + out * direction[None, :, 1:2] + 0.3 * shell.radius * t**2
        fade = np.exp(-np.square(age / (0.55 * SPARK_FRAMES))) * (1 - 0.16 * lag / 0.35 * 0.5)
        fade = fade * np.where(age > 8, rng.uniform(0.35, 1.3, (SPARK_FRAMES, count, 1)), 1.0)
        frame = shell.frame + np.broadcast_to(np.arange(SPARK_FRAMES)[:, None, None], x.shape)
        _add_sparks(canvas, light, shell, frame, x, y, np.broadcast_to(fade, x.shape))
    return light


def _add_sparks(
    canvas: Canvas, light: Field, shell: Shell, frame: NDArray[np.integer[Any]], x: Field, y: Field, fade: Field
) -> None:
    """Adds one shell's sparks to ``light`` in place, only in the frames it lives in."""
    first, last = max(shell.frame, 0), min(shell.frame + SPARK_FRAMES, canvas.num_frames)
    keep = (frame >= first) & (frame < last)
    if last <= first:
        return
    width = np.full(int(keep.sum()), (0.8 + 2.4 * shell.radius) * canvas.size / 256)
    glow = splat(frame[keep] - first, x[keep], y[keep], width, 0.8 * fade[keep], last - first, canvas.size)
    light[first:last] += glow[..., None] * (0.8 * shell.colour + 0.2)


def _rises(canvas: Canvas, shells: list[Shell], ground: float) -> Field:
    """The shells' climb before their burst, (T, H, W)."""
    step, tail = np.meshgrid(np.arange(RISE_FRAMES), np.linspace(0, 1, 14), indexing="ij")
    climbed = np.clip((step + 0.5 - 1.6 * tail) / RISE_FRAMES, 0, 1)
    frame = np.concatenate([(shell.frame - RISE_FRAMES + step).ravel() for shell in shells])
    x = np.concatenate([np.full(step.size, shell.x) for shell in shells])
    y = np.concatenate([(ground - (ground - shell.y) * (1 - (1 - climbed) ** 1.7)).ravel() for shell in shells])
    keep = (frame >= 0) & (frame < canvas.num_frames)
    weight = np.tile((0.5 * (1 - tail)).ravel(), len(shells))[keep]
    return splat(
        frame[keep], x[keep], y[keep], np.full(len(weight), canvas.size / 256), weight, canvas.num_frames, canvas.size
    )


def _glow(canvas: Canvas, shells: list[Shell]) -> Field:
    """The flash that fills the air around each burst, (T, H, W, 3)."""
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, canvas.rng)
    x, y = half.grid
    light = np.zeros((canvas.num_frames, 3, half.size, half.size), np.float32)
    for shell in shells:
        halo = np.exp(-(np.square(x - shell.x) + np.square(y - shell.y)) / (1.1 * shell.radius**2))
        for frame in range(max(shell.frame, 0), min(shell.frame + 12, canvas.num_frames)):
            age = frame - shell.frame
            light[frame] += (1.2 if age == 0 else 0.7 * np.exp(-age / 4)) * halo * shell.colour[:, None, None]
    return np.moveaxis(doubled(light), 1, -1)


def _over_background(canvas: Canvas, light: Field, background: Clip) -> Field:
    """Fireworks above another clip, whose lower half takes a little of their light."""
    _, y = canvas.grid
    flash = light.mean(axis=(1, 2))[:, None, None, :]
    return background.frames * (1 + 3 * flash) + light + 0.5 * flash * (y > 0.5)[None, ..., None]


def _over_city(canvas: Canvas, light: Field) -> Field:
    """Night sky, skyline (houses with lit windows, or hills) and, often, water that mirrors all of it."""
    rng = canvas.rng
    _, y = canvas.grid
    sky = ramp(np.broadcast_to(y, (canvas.size, canvas.size)), (0.0, (0.01, 0.01, 0.04)), (0.85, (0.05, 0.05, 0.13)))
    sky = sky + 0.4 * star_layers(rng, canvas, 40, groups=1)[0][..., None]
    frames = sky + light
    city = rng.random() < 0.7
    skyline, windows = _houses(canvas) if city else (ridge(rng, canvas.grid[0][0], 0.76, 0.05), np.float32(0))
    dark = np.array([0.012, 0.012, 0.022], np.float32) + np.asarray(windows)[..., None] * np.array(
        [1.0, 0.75, 0.35], np.float32
    )
    frames = over(frames, dark, below(canvas, skyline))
    return _mirrored(canvas, frames) if rng.random() < 0.7 else frames


def _houses(canvas: Canvas) -> tuple[Field, Field]:
    """Flat roofs at different heights (y per column) and their lit windows (H, W)."""
    rng, size = canvas.rng, canvas.size
    roof, windows = np.empty(size, np.float32), np.zeros((size, size), np.float32)
    column, pane = 0, max(size // 64, 1)
    while column < size:
        width = int(rng.integers(size // 20, size // 9) + 1)
        top = float(rng.uniform(0.6, 0.76))
        roof[column : column + width] = top
        for row in range(int(top * size) + 2 * pane, int(WATER * size) - pane, 3 * pane):
            for left in range(column + pane, min(column + width, size) - 2 * pane, 3 * pane):
                windows[row : row + pane, left : left + pane] = 0.7 * (rng.random() < 0.35)
        column += width
    return roof, windows


def _mirrored(canvas: Canvas, frames: Field) -> Field:
    """Replaces what is below the water line by the mirrored picture, dimmed and broken up by small waves."""
    line = int(WATER * canvas.size)
    rows = np.arange(canvas.size - line)
    for frame in range(canvas.num_frames):
        wave = 1.5 * np.sin(0.9 * rows + 0.8 * frame) + np.sin(0.37 * rows - 0.5 * frame)
        source = np.clip(line - 1 - 2.6 * rows + wave * canvas.size / 256, 0, line - 1).astype(int)
        frames[frame, line:] = 0.55 * frames[frame, source] + np.array([0.005, 0.01, 0.03], np.float32)
    return frames


def _sound(spec: SceneSpec, canvas: Canvas, shells: list[Shell]) -> tuple[Field, list[Event]]:
    """Whooshes, booms and crackles, (2, N), and the frames in which the booms are heard."""
    rng, gain = canvas.rng, DISTANCE_GAIN[spec.distance]
    delay = round(DELAY_SECONDS[spec.distance] * canvas.fps)
    track, events = diffuse(rng, np.full(canvas.num_samples, 0.002, np.float32), 80, 800, tilt=-3), []
    boom, crackle, whoosh = _boom(rng), _crackle(rng), _whoosh(rng, canvas.fps)
    for shell in shells:
        level = gain * (0.6 + 1.6 * shell.radius / RADIUS[spec.distance] * 0.4)
        heard = shell.frame + delay
        if heard - RISE_FRAMES >= 0:
            add_at(track, canvas.sample_of(heard - RISE_FRAMES), pan(0.06 * level * whoosh, shell.x))
        if not 0 <= heard < canvas.num_frames:
            continue
        start = canvas.sample_of(heard)
        add_at(track, start, pan(level * boom, shell.x))
        add_at(track, start + SAMPLE_RATE // 4, pan(level * np.roll(crackle, int(rng.integers(4000))), shell.x))
        events.append(Event(heard, "boom", shell.x))
    return (lowpass(track, 2200) if spec.distance == "far" else track), events


def _boom(rng: np.random.Generator) -> Field:
    count = SAMPLE_RATE
    low = 0.34 * noise_band(rng, count, 35, 220, tilt=-3) * decay(count, 0.004, 0.22)
    return low + 0.22 * noise_band(rng, count, 200, 9000, tilt=-3) * decay(count, 0.001, 0.07)


def _crackle(rng: np.random.Generator) -> Field:
    """Sparks going out: ticks that thin out over about a second."""
    track = np.zeros(int(1.2 * SAMPLE_RATE), np.float32)
    tick = noise_band(rng, 1200, 1500, 12000) * decay(1200, 0.0005, 0.004)
    for start in rng.beta(1.2, 2.2, 70) * len(track):
        add_at(track, int(start), 0.11 * rng.uniform(0.3, 1) * tick)
    return track


def _whoosh(rng: np.random.Generator, fps: int) -> Field:
    count = round(RISE_FRAMES / fps * SAMPLE_RATE)
    swell = np.hanning(count).astype(np.float32)
    return noise_band(rng, count, 900, 5000) * swell
