"""Smoke rising from the chimney of a house or from a smouldering heap, bent by the wind.

Smoke seen at a height left the source as long ago as it takes to rise there; the wind has carried it sideways since,
and it has widened by mixing with air. So everything about the plume (puffs, meanders) is a function of its time of
emission and travels up with it. A soft hiss comes from the source, and ticks of what
smoulders there.
"""

from __future__ import annotations

import numpy as np

from training.scenes.base import (
    LIGHT,
    SAMPLE_RATE,
    SIDE_POSITION,
    Canvas,
    Clip,
    Field,
    SceneSpec,
    add_at,
    decay,
    enlarge,
    fractal,
    limit,
    noise_band,
    over,
    pan,
    polygons,
    sample,
    sky,
    slow_noise,
    smoothstep,
)

FAMILY = "smoke"
VARIES = frozenset({"time_of_day", "side", "strength"})
SUBJECTS = ("smoke rising", "a plume of smoke", "smoke curling up into the sky")

SMOKE_TONES = ((0.9, 0.9, 0.91), (0.62, 0.61, 0.61), (0.3, 0.29, 0.29))


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Weak: a thin grey ribbon. Strong: a broad, billowing column."""
    rng = canvas.rng
    strong = spec.strength == "strong"
    place = SIDE_POSITION[spec.side] + rng.uniform(-0.04, 0.04)
    still, mouth = _ground(spec, canvas, place)
    lean = rng.uniform(0.1, 0.5) * (1 if spec.side == "left" else -1 if spec.side == "right" else rng.choice((-1, 1)))
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    shade, alpha = _plume(half, place, mouth, lean, strong)
    light = np.array(LIGHT[spec.time_of_day], np.float32) * (2.5 if spec.time_of_day == "night" else 1.0)
    if spec.time_of_day != "day":
        light = 0.55 * light.mean() + 0.45 * light + (0.25 if spec.time_of_day == "sunset" else 0.0)
    tone = np.array(SMOKE_TONES[int(rng.integers(3 if spec.time_of_day == "day" else 1))], np.float32) * light
    frames = np.empty((canvas.num_frames, canvas.size, canvas.size, 3), np.float32)
    for frame, (dark, cover) in enumerate(zip(enlarge(shade), enlarge(alpha), strict=True)):
        frames[frame] = over(still, tone * dark[..., None], cover)
    return Clip(np.clip(frames, 0, 1), _sound(canvas, place, strong))


def _ground(spec: SceneSpec, canvas: Canvas, place: float) -> tuple[Field, float]:
    """Sky, fields and the source of the smoke, (H, W, 3), and the height of its mouth."""
    rng, (x, y) = canvas.rng, canvas.grid
    light = np.array(LIGHT[spec.time_of_day], np.float32) * (1.6 if spec.time_of_day == "night" else 1.0)
    horizon = rng.uniform(0.74, 0.8)
    texture = fractal(rng, 256, 1.8)
    picture = sky(canvas, spec.time_of_day, horizon)
    ridge = horizon - 0.05 - 0.025 * sample(texture, x * 0.7, np.float32(0.2))
    picture = over(picture, np.array((0.34, 0.44, 0.46), np.float32) * light, smoothstep(-0.008, 0.008, y - ridge))
    earth = np.array(((0.34, 0.5, 0.22), (0.62, 0.54, 0.3))[int(rng.integers(2))], np.float32) * light
    fields = earth * (0.95 + 0.08 * sample(texture, x, y * 4))[..., None]
    picture = over(picture, fields.astype(np.float32), smoothstep(-0.005, 0.005, y - horizon - 0 * x))
    return _house(picture, spec, canvas, light, place) if rng.random() < 0.65 else _heap(picture, canvas, light, place)


def _house(picture: Field, spec: SceneSpec, canvas: Canvas, light: Field, place: float) -> tuple[Field, float]:
    """A cottage whose chimney stands at ``place``."""
    rng, size = canvas.rng, canvas.size
    base, roof, ridge = 0.92, 0.78, 0.66
    left = place - rng.uniform(0.06, 0.2)
    right = left + 0.3
    walls = np.array(((0.9, 0.85, 0.75), (0.72, 0.5, 0.38), (0.6, 0.62, 0.66))[int(rng.integers(3))], np.float32)
    tiles = np.array(((0.6, 0.24, 0.18), (0.35, 0.3, 0.32))[int(rng.integers(2))], np.float32)
    chimney = [
        (place - 0.026, roof),
        (place - 0.026, ridge - 0.05),
        (place + 0.026, ridge - 0.05),
        (place + 0.026, roof),
    ]
    gable = [(left - 0.025, roof + 0.01), (left + 0.05, ridge), (right - 0.05, ridge), (right + 0.025, roof + 0.01)]
    picture = over(picture, np.array((0.5, 0.3, 0.24), np.float32) * light, polygons(size, [chimney]))
    picture = over(picture, walls * light, polygons(size, [_box(left, roof, right, base)]))
    picture = over(picture, tiles * light, polygons(size, [gable]))
    glass = (
        np.array((1.0, 0.8, 0.4), np.float32) if spec.time_of_day != "day" else np.array((0.35, 0.45, 0.55), np.float32)
    )
    panes = [_box(left + 0.04, 0.82, left + 0.1, 0.87), _box(right - 0.1, 0.82, right - 0.04, 0.87)]
    picture = over(picture, glass, polygons(size, panes))
    door = _box(left + 0.13, 0.83, left + 0.18, base)
    return over(picture, np.array((0.3, 0.2, 0.14), np.float32) * light, polygons(size, [door])), ridge - 0.05


def _box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _heap(picture: Field, canvas: Canvas, light: Field, place: float) -> tuple[Field, float]:
    """A smouldering heap of ash and branches with a few embers."""
    rng, (x, y) = canvas.rng, canvas.grid
    texture = fractal(rng, 256, 1.4, 3)
    rough = sample(texture, x * 2, y * 2)
    rim = 0.9 - 0.13 * np.exp(-(((x - place) / 0.11) ** 2)) + 0.008 * rough
    ash = np.array((0.26, 0.22, 0.2), np.float32) * light * (1 + 0.25 * rough)[..., None]
    ash = over(ash, np.array((1.0, 0.42, 0.1), np.float32), smoothstep(1.3, 2.0, rough))
    cover = smoothstep(-0.006, 0.006, y - rim) * smoothstep(0.93, 0.91, y) * smoothstep(0.2, 0.17, np.abs(x - place))
    return over(picture, ash.astype(np.float32), cover), 0.79


def _plume(canvas: Canvas, place: float, mouth: float, lean: float, strong: bool) -> tuple[Field, Field]:
    """Brightness and opacity of the smoke, each (T, h, w)."""
    rng, (x, y) = canvas.rng, canvas.grid
    t = canvas.seconds[:, None, None]
    up = np.maximum(mouth - y, 0)
    rise = rng.uniform(0.2, 0.26) * (1.25 if strong else 1.0)
    born = t - up / rise
    texture = fractal(rng, 256, 1.7, 1)
    meander = sample(texture, 0.09 * born, np.float32(0.3)) * 0.16 * up + 0.05 * up * sample(
        texture, 0.25 * born, np.float32(0.8)
    )
    width = (0.03 + 0.24 * up) if strong else (0.014 + 0.1 * up)
    u = (x - place - lean * up**1.6 - meander) / width
    coarse = 0.16 * (1.0 if strong else 0.6)
    billow = sample(texture, coarse * u + 0.05 * t, 0.32 * born)
    fine = sample(texture, 0.5 * u + 0.5 + 0.25 * billow, 0.95 * born + 0.1 * billow)
    body = 1.15 - u**2 / (1.0 + 0.25 * np.clip(billow, -1.5, 2)) + 0.22 * billow + 0.22 * fine
    thin = 1.0 - 0.5 * smoothstep(0.1, 0.75, up)
    alpha = smoothstep(0.1, 0.85, body) * thin * smoothstep(-0.01, 0.015, mouth - y) * (0.97 if strong else 0.88)
    shade = np.clip(0.9 + 0.12 * billow + 0.1 * fine - 0.12 * u * np.sign(lean), 0.45, 1.15)
    return shade.astype(np.float32), alpha.astype(np.float32)


def _sound(canvas: Canvas, place: float, strong: bool) -> Field:
    """A breathy hiss that comes and goes with the puffs, and soft ticks of what smoulders below, (2, N)."""
    rng, count = canvas.rng, canvas.num_samples
    puff = np.clip(1 + 0.6 * canvas.frame_envelope(slow_noise(rng, canvas.num_frames, 2.5)), 0.1, 2.5)
    track = 0.016 * noise_band(rng, count, 800, 2600, -2) * puff**1.5
    for _ in range(rng.poisson(6 * count / SAMPLE_RATE)):
        tick = noise_band(rng, 1200, 500, 5000, -2) * decay(1200, 0.0005, 0.005)
        add_at(track, int(rng.integers(count)), rng.uniform(0.04, 0.16) * tick)
    return limit(pan((1.0 if strong else 0.35) * track, place))
