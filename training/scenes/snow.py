"""Snow falling on a hill with fir trees; wind drives the flakes and howls round the trees.

Flakes fall at a depth each: near ones are larger and faster. All are carried by one wind speed per frame, and the same
wind makes the sound: it howls round the trees, louder and higher in a gust. Without wind a snowy hill is nearly silent.
"""

from __future__ import annotations

import numpy as np

from training.scenes.base import (
    LIGHT,
    SAMPLE_RATE,
    Canvas,
    Clip,
    Field,
    SceneSpec,
    diffuse,
    dots,
    fractal,
    limit,
    noise_band,
    over,
    pan,
    polygons,
    ramp,
    sample,
    slow_noise,
    smoothstep,
)

FAMILY = "snow"
VARIES = frozenset({"time_of_day", "strength"})
SUBJECTS = ("snow falling on fir trees", "a snowy hill with fir trees", "snowfall over a white hillside")

SNOW_SKY = {
    "day": ((0.6, 0.67, 0.76), (0.86, 0.89, 0.93)),
    "sunset": ((0.4, 0.34, 0.5), (0.97, 0.68, 0.55)),
    "night": ((0.02, 0.035, 0.1), (0.1, 0.14, 0.26)),
}
SNOW_LIGHT = {"day": (0.97, 0.98, 1.0), "sunset": (0.98, 0.78, 0.74), "night": (0.24, 0.3, 0.46)}


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Weak: calm, sparse and nearly silent. Strong: a blizzard whose gusts are seen and heard."""
    strong = spec.strength == "strong"
    wind = _wind(canvas, strong)
    still = _hillside(spec, canvas)
    haze = np.array(SNOW_SKY[spec.time_of_day][1], np.float32)
    frames = np.empty((canvas.num_frames, canvas.size, canvas.size, 3), np.float32)
    thick = 0.12 + 0.22 * np.abs(wind) / np.abs(wind).max() if strong else np.full(canvas.num_frames, 0.0)
    for frame in range(canvas.num_frames):
        frames[frame] = still + (haze - still) * np.float32(thick[frame])
    _flakes(frames, spec, canvas, wind, strong)
    return Clip(np.clip(frames, 0, 1), _sound(canvas, np.abs(wind), strong))


def _wind(canvas: Canvas, strong: bool) -> Field:
    """Sideways speed of the air in picture widths a second, per frame, (T,)."""
    side = canvas.rng.choice((-1.0, 1.0))
    gust = slow_noise(canvas.rng, canvas.num_frames, 0.5 * canvas.fps)
    speed = np.maximum(0.62 + 0.3 * gust, 0.2) if strong else 0.03 + 0.015 * gust
    return (side * speed).astype(np.float32)


def _hillside(spec: SceneSpec, canvas: Canvas) -> Field:
    """Sky, a far ridge, a white hill and snow-laden fir trees, (H, W, 3)."""
    rng, (x, y) = canvas.rng, canvas.grid
    zenith, low = SNOW_SKY[spec.time_of_day]
    picture = np.broadcast_to(ramp(y / 0.7, (0.0, zenith), (1.0, low)), (canvas.size, canvas.size, 3)).copy()
    white = np.array(SNOW_LIGHT[spec.time_of_day], np.float32)
    smooth = fractal(rng, 256, 2.2)
    ridge = rng.uniform(0.42, 0.52) + 0.05 * sample(smooth, x * 0.8, np.float32(0.2))
    picture = over(picture, 0.35 * white + 0.5 * np.array(low, np.float32), smoothstep(-0.008, 0.008, y - ridge))
    hill = (
        rng.uniform(0.62, 0.7)
        + 0.05 * np.cos(2.6 * (x - rng.uniform(0, 1)))
        + 0.012 * sample(smooth, x, np.float32(0.7))
    )
    bank = white * (0.9 + 0.1 * smoothstep(0.0, 0.3, y - hill) + 0.03 * sample(smooth, x * 1.5, y * 3))[..., None]
    picture = over(picture, bank.astype(np.float32), smoothstep(-0.006, 0.006, y - hill))
    for middle in sorted(rng.uniform(0.03, 0.97, rng.integers(5, 10)), key=lambda _: float(rng.random())):
        foot = float(hill[0, int(middle * canvas.size)]) + rng.uniform(0.0, 0.05)
        picture = _fir(picture, spec, canvas, float(middle), foot, rng.uniform(0.14, 0.3))
    for middle in rng.uniform(0.05, 0.95, rng.integers(1, 3)):
        picture = _fir(picture, spec, canvas, float(middle), rng.uniform(0.84, 0.95), rng.uniform(0.42, 0.55))
    return picture


def _fir(picture: Field, spec: SceneSpec, canvas: Canvas, middle: float, foot: float, tall: float) -> Field:
    """One fir of four tiers, each with snow on its upper edge."""
    green = np.array((0.1, 0.26, 0.19), np.float32) * (0.3 + 0.7 * np.array(LIGHT[spec.time_of_day], np.float32))
    trunk = [(middle - 0.03 * tall, foot), (middle - 0.03 * tall, foot - 0.15 * tall)]
    trunk += [(middle + 0.03 * tall, foot - 0.15 * tall), (middle + 0.03 * tall, foot)]
    picture = over(picture, np.array((0.5, 0.4, 0.35), np.float32) * green.mean() * 2, polygons(canvas.size, [trunk]))
    for tier in range(4):
        low, high = foot - (0.1 + 0.2 * tier) * tall, foot - (0.5 + 0.17 * tier) * tall
        wide = (0.3 - 0.058 * tier) * tall
        branches = [(middle - wide, low), (middle, high), (middle + wide, low)]
        picture = over(picture, green, polygons(canvas.size, [branches]))
        cap = 0.55 * (low - high)
        snow = [(middle, high), (middle - 0.58 * wide, high + cap), (middle - 0.2 * wide, high + 0.72 * cap)]
        snow += [(middle + 0.1 * wide, high + 0.95 * cap), (middle + 0.35 * wide, high + 0.6 * cap)]
        picture = over(picture, np.array(SNOW_LIGHT[spec.time_of_day], np.float32), 0.9 * polygons(canvas.size, [snow]))
    return picture


def _flakes(frames: Field, spec: SceneSpec, canvas: Canvas, wind: Field, strong: bool) -> None:
    """Draws three depths of flakes, carried by the wind, in place."""
    rng, unit = canvas.rng, canvas.size / 256
    carried = np.cumsum(wind) / canvas.fps
    white = np.minimum(
        np.array(SNOW_LIGHT[spec.time_of_day], np.float32) * (2.3 if spec.time_of_day == "night" else 1.3), 1.0
    )
    counts = (320, 150, 50) if strong else (110, 55, 20)
    for depth, count in enumerate(counts):
        near = (0.4, 0.7, 1.2)[depth]
        x, y, own = rng.random(count), rng.random(count), rng.uniform(0.75, 1.25, count)
        fall = (0.3 if strong else 0.16) * near * own
        sway, turn = 0.012 * near * rng.random(count), rng.uniform(1.5, 3.5, count)
        for frame, second in enumerate(canvas.seconds):
            at_x = (x + near * own * carried[frame] + sway * np.sin(turn * second + 40 * x)) % 1.1 - 0.05
            at_y = (y + fall * second) % 1.1 - 0.05
            spot = dots(canvas.size, at_x, at_y, np.full(count, 1.1), (0.8, 1.2, 2.0)[depth] * unit)
            frames[frame] = over(frames[frame], white, np.minimum(spot, 0.95))


def _sound(canvas: Canvas, wind: Field, strong: bool) -> Field:
    """Howling that glides with the gusts over a little rushing air; calm, one faint howl far off, (2, N)."""
    rng = canvas.rng
    speed = canvas.frame_envelope(wind)
    if not strong:
        return pan(0.003 * _howl(rng, 420 + 3000 * speed), 0.5)
    sound = diffuse(rng, 0.06 * speed**2, 120, 1200, -3)
    for share, place in ((1.0, 0.35), (1.52, 0.65), (2.3, 0.5)):
        level = 0.14 * speed**1.5 * np.float32(1 / share)
        sound += pan(level * _howl(rng, share * (260 + 520 * speed)), place)
    return limit(sound)


def _howl(rng: np.random.Generator, pitch_hz: Field) -> Field:
    """Air over an edge: noise 30 Hz wide about a pitch given for each sample (Strouhal: pitch follows speed), (N,)."""
    count = len(pitch_hz)
    phase = 2 * np.pi * np.cumsum(pitch_hz.astype(np.float64)) / SAMPLE_RATE
    across, along = (noise_band(rng, count, 1, 15) for _ in range(2))
    return ((across * np.cos(phase) + along * np.sin(phase)) / np.sqrt(2)).astype(np.float32)
