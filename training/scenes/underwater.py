"""Under water: rays of light from the surface, swaying plants, bubbles that burst out of the sea bed.

Bubbles rise faster the larger they are, and wobble. A low muffled rumble is always there; each burst of bubbles is
heard as bubbling (Minnaert: a bubble of a few millimetres rings at several hundred hertz) as long as bubbles come out.
"""

from __future__ import annotations

import numpy as np

from training.scenes.base import (
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
    diffuse,
    fractal,
    noise_band,
    over,
    pan,
    ramp,
    sample,
    smoothstep,
)
from training.scenes.shapes import doubled, ridge, splat

FAMILY = "underwater"
VARIES = frozenset({"side", "strength"})
SUBJECTS = (
    "an underwater scene",
    "bubbles rising underwater",
    "the sea floor with plants",
    "an underwater view",
    "bubbles under water",
    "the deep blue sea underwater",
)

BUBBLES = {"weak": 10, "strong": 30}
GAP_SECONDS = {"weak": 1.9, "strong": 1.0}


def render(spec: SceneSpec, canvas: Canvas) -> Clip:
    """Frames (T, H, W, 3) and sound (2, N)."""
    rng = canvas.rng
    centre = SIDE_POSITION[spec.side] + rng.uniform(-0.05, 0.05)
    frames = _water(canvas)
    floor = _floor(canvas, frames)
    plants = _plants(canvas, floor)
    frames = over(frames, np.array([0.02, 0.22, 0.13], np.float32), np.clip(plants, 0, 1))
    bursts, born, start, radius = _bubbles(spec, canvas, centre)
    rim, shine = _draw_bubbles(canvas, born, start, radius)
    frames = over(frames, np.array([0.75, 0.97, 1.0], np.float32), np.clip(rim, 0, 0.65)) + shine[..., None]
    events = [Event(frame, "bubbles", centre) for frame in bursts]
    return Clip(np.clip(frames, 0, 1), _sound(spec, canvas, born, start, radius), events)


def _water(canvas: Canvas) -> Field:
    """Blue-green depth with slanted rays that slowly shift, (T, H, W, 3)."""
    rng = canvas.rng
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    x, y = half.grid
    _, full_y = canvas.grid
    hue = rng.uniform(0, 1)
    top, deep = (0.16, 0.62 + 0.1 * hue, 0.78 - 0.12 * hue), (0.0, 0.13 + 0.05 * hue, 0.27 - 0.06 * hue)
    base = ramp(np.broadcast_to(full_y, (canvas.size, canvas.size)), (0.0, top), (0.45, (0.03, 0.36, 0.5)), (1.0, deep))
    source, t = rng.uniform(0.2, 0.8), half.seconds[:, None, None]
    angle = (x - source) / (y + 0.55)
    texture = fractal(rng, 128, slope=1.1, lowest=2)
    rays = sample(texture, 0.3 * angle + 0.012 * t + rng.random(), 0.03 * t + 0 * angle) * 0.7
    rays += sample(texture, 0.5 * angle - 0.015 * t + rng.random(), 0.5 + 0.035 * t + 0 * angle) * 0.5
    light = doubled(np.maximum(rays, 0) * (1 - smoothstep(0.05, 0.95, y)) * 0.38)
    return base + light[..., None] * np.array([0.6, 1.0, 0.95], np.float32)


def _floor(canvas: Canvas, frames: Field) -> Field:
    """Paints the sandy bed with moving caustic light in place; returns its y per column (W,)."""
    rng = canvas.rng
    x, y = canvas.grid
    line = ridge(rng, x[0], rng.uniform(0.84, 0.9), 0.025)
    half = Canvas(canvas.num_frames, canvas.fps, canvas.size // 2, rng)
    hx, hy = half.grid
    texture, t = fractal(rng, 128, slope=1.4, lowest=2), half.seconds[:, None, None]
    net = 1 - np.abs(sample(texture, 0.8 * hx + 0.05 * t, 3 * hy + 0.03 * t)) * 1.5
    caustic = doubled(np.maximum(net, 0))
    sand = np.array([0.16, 0.33, 0.34], np.float32) + 0.2 * caustic[..., None] * np.array([0.6, 1.0, 0.9], np.float32)
    frames[:] = over(frames, sand, smoothstep(-0.006, 0.006, y - line[None]))
    return line


def _plants(canvas: Canvas, floor: Field) -> Field:
    """Opacity of ribbons of sea weed that sway, the tip later than the root, (T, H, W)."""
    rng, parts = canvas.rng, 44
    tufts = rng.random(int(rng.integers(3, 6)))
    root = np.concatenate([tuft + rng.normal(0, 0.035, 5) for tuft in tufts])
    tall = rng.uniform(0.14, 0.42, len(root))
    along, t = np.linspace(0, 1, parts), canvas.seconds[:, None, None]
    swing = np.sin(2 * np.pi * (0.28 * t - 0.5 * along + 0.4 * root[None, :, None]))
    x = root[None, :, None] + (0.03 + 0.2 * tall[None, :, None]) * swing * along**1.3 * 0.5
    column = np.clip((root * canvas.size).astype(int), 0, canvas.size - 1)
    y = np.broadcast_to(floor[column][None, :, None] + 0.03 - tall[None, :, None] * along, x.shape)
    radius = np.broadcast_to(3.0 * np.sqrt(np.maximum(1 - along, 0.1)) * canvas.size / 256, x.shape)
    frame = np.broadcast_to(np.arange(canvas.num_frames)[:, None, None], x.shape)
    return splat(
        frame.ravel(),
        x.ravel(),
        y.ravel(),
        radius.ravel(),
        np.full(x.size, 0.75),
        canvas.num_frames,
        canvas.size,
        reach=5,
    )


def _bubbles(spec: SceneSpec, canvas: Canvas, centre: float) -> tuple[list[int], Field, Field, Field]:
    """Frames of the bursts; frame of birth, x of birth and radius (share of the picture) of each bubble."""
    rng = canvas.rng
    gap = GAP_SECONDS[spec.strength] * canvas.fps
    starts = np.arange(rng.uniform(-1.2, 0.4) * gap, canvas.num_frames, gap)
    starts = np.rint(starts + rng.uniform(-0.2, 0.2, len(starts)) * gap).astype(int)
    count = BUBBLES[spec.strength]
    late = np.minimum(rng.exponential(0.25 * canvas.fps, (len(starts), count)), gap)
    late[:, :3] = 0
    born = (starts[:, None] + late).ravel().astype(np.float32)
    start = (centre + rng.normal(0, 0.045, born.size)).astype(np.float32)
    radius = (rng.uniform(0.008, 0.03, born.size) * (1.0 if spec.strength == "strong" else 0.8)).astype(np.float32)
    return [int(f) for f in starts if 0 <= f < canvas.num_frames], born, start, radius


def _draw_bubbles(canvas: Canvas, born: Field, start: Field, radius: Field) -> tuple[Field, Field]:
    """Rim opacity and highlight of the bubbles, each (T, H, W): a disc less its darker inside."""
    frame, which = np.meshgrid(np.arange(canvas.num_frames), np.arange(born.size), indexing="ij")
    age = (frame - born[which]) / canvas.fps
    size = radius[which]
    y = 0.87 - (0.16 + 7.0 * size) * age
    x = start[which] + (0.02 + 0.05 * age) * np.sin(2 * np.pi * (0.7 * age + which * 0.37)) * (1 - np.exp(-2 * age))
    keep = (age >= 0) & (y > -0.05)
    frame, x, y = frame[keep], x[keep], y[keep]
    pixels = size[keep] * canvas.size
    disc = splat(frame, x, y, 0.7 * pixels, np.full(len(x), 0.75), canvas.num_frames, canvas.size)
    inside = splat(frame, x, y, 0.45 * pixels, np.full(len(x), 0.6), canvas.num_frames, canvas.size)
    shine = splat(
        frame,
        x - 0.3 * size[keep],
        y - 0.35 * size[keep],
        0.22 * pixels,
        np.full(len(x), 0.6),
        canvas.num_frames,
        canvas.size,
    )
    return np.maximum(disc - inside, 0), shine


def _sound(spec: SceneSpec, canvas: Canvas, born: Field, start: Field, radius: Field) -> Field:
    """Muffled rumble everywhere and one blip for each bubble where it comes out, (2, N)."""
    rng, gain = canvas.rng, STRENGTH_GAIN[spec.strength]
    track = diffuse(rng, np.full(canvas.num_samples, 0.016 * gain, np.float32), 35, 220, tilt=-3)
    length = SAMPLE_RATE // 6
    blips = [
        noise_band(rng, length, low, 1.7 * low) * decay(length, 0.004, 0.035) for low in (260.0, 380.0, 550.0, 800.0)
    ]
    for frame, x, size in zip(born, start, radius, strict=True):
        for echo in range(3):
            blip = blips[int(np.clip(4 - 130 * size + rng.uniform(-0.7, 0.7), 0, 3))]
            at = int((frame / canvas.fps + echo * rng.uniform(0.04, 0.13)) * SAMPLE_RATE)
            if at >= 0:
                add_at(track, at, pan((0.22 * gain * (0.4 + 20 * size) * 0.7**echo) * blip, float(x)))
    return np.tanh(track).astype(np.float32)
