"""What every scene shares: its description, its canvas, fields to paint with and noise to sound with.

A scene is one small file with picture and sound side by side. Its ``render(spec, canvas)`` returns a :class:`Clip`
whose sound is computed from the same quantities as its picture, so that what is heard at a moment is what is seen at
that moment. Every scene draws all of its randomness from ``canvas.rng``: same spec, same clip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage, signal

from libs.families.diorama.camera import Camera

SAMPLE_RATE = 48_000
"""Sound is stereo at 48 kHz everywhere."""

Field = NDArray[np.floating[Any]]
"""A picture quantity; shapes are given where it is made. Whole clips are of single precision, what they are computed
from is often of double."""
Value = float | np.floating[Any]
"""One number of such."""

TimeOfDay = Literal["day", "sunset", "night"]
Distance = Literal["near", "far"]
Side = Literal["left", "centre", "right"]
Strength = Literal["weak", "strong"]

SIDE_POSITION: dict[str, float] = {"left": 0.25, "centre": 0.5, "right": 0.75}
"""Where the main source stands, as a share of the picture's width."""

DISTANCE_GAIN: dict[str, float] = {"near": 1.0, "far": 0.35}
"""Sound level of a source by distance: far is 9 dB quieter."""

STRENGTH_GAIN: dict[str, float] = {"weak": 0.5, "strong": 1.0}


@dataclass(frozen=True)
class SceneSpec:
    """One scene to render. A family that does not depend on an attribute ignores it (see its ``VARIES``)."""

    family: str
    time_of_day: TimeOfDay = "day"
    distance: Distance = "near"
    side: Side = "centre"
    strength: Strength = "strong"
    colour: str = ""
    """One of the family's ``COLOURS``; empty where it has none."""
    camera: Camera = "still"
    background: str | None = None
    """Family seen and heard behind this one; only the pairs listed in ``training.scenes.PAIRS``."""
    seed: int = 0


@dataclass(frozen=True)
class Event:
    """Something that is seen and heard to begin at one frame (lightning's thunder carries the frame of the *sound*)."""

    frame: int
    kind: str
    position: float
    """Horizontal position, 0 (left) to 1 (right)."""


@dataclass
class Clip:
    """A rendered scene.

    ``frames``: float32 (T, H, W, 3), sRGB values in [0, 1]. ``sound``: float32 (2, N) at 48 kHz, in [-1, 1], where
    N = round(T / fps * 48000); absolute level matters (near is louder than far, a quiet night is nearly silent).
    """

    frames: Field
    sound: Field
    events: list[Event] = field(default_factory=list)


@dataclass
class Canvas:
    """The size of a clip, its coordinate grids and its random generator."""

    num_frames: int
    fps: int
    size: int
    rng: np.random.Generator

    @property
    def num_samples(self) -> int:
        return round(self.num_frames / self.fps * SAMPLE_RATE)

    @property
    def seconds(self) -> Field:
        """Time of each frame, float32 (T,)."""
        return (np.arange(self.num_frames) / self.fps).astype(np.float32)

    @property
    def grid(self) -> tuple[Field, Field]:
        """x and y of each pixel centre in [0, 1], float32 (1, W) and (H, 1); y grows downwards."""
        centres = ((np.arange(self.size) + 0.5) / self.size).astype(np.float32)
        return centres[None, :], centres[:, None]

    def frame_envelope(self, per_frame: Field) -> Field:
        """Interpolates a value per frame, (T,), to a value per sample, float32 (N,)."""
        at = np.arange(self.num_samples) / SAMPLE_RATE * self.fps
        return np.interp(at, np.arange(self.num_frames), per_frame).astype(np.float32)

    def sample_of(self, frame: int) -> int:
        """First sample of a frame: an event seen first in a frame starts to sound here."""
        return round(frame / self.fps * SAMPLE_RATE)


class Scene(Protocol):
    """What a module in this package offers."""

    FAMILY: str
    VARIES: frozenset[str]
    """Names of the SceneSpec attributes that change picture or sound."""

    @property  # to be read only, as each module's tuple has a length of its own
    def SUBJECTS(self) -> tuple[str, ...]:  # noqa: N802  # a module's constant
        """Noun phrases that name the scene, for the caption grammar, e.g. "a campfire"."""

    # A family whose VARIES has "colour" also says COLOURS: the words of the colours that it comes in.

    def render(self, spec: SceneSpec, canvas: Canvas) -> Clip: ...


# --- picture ---------------------------------------------------------------------------------------------------------


def fractal(rng: np.random.Generator, size: int, slope: float = 1.8, lowest: int = 1) -> Field:
    """A tileable random texture with a power-law spectrum (spectral synthesis), zero mean, unit variance.

    ``slope``: amplitude falls as frequency ** -slope / 2 ... larger is smoother. ``lowest``: lowest frequency kept, in
    cycles per tile. Shape (size, size), float32.
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]) * size
    amplitude = np.where(frequency >= lowest, np.maximum(frequency, 1e-6) ** -slope, 0.0)
    spectrum = amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape))
    texture = np.fft.irfft2(spectrum, s=(size, size))
    return ((texture - texture.mean()) / texture.std()).astype(np.float32)


def sample(texture: Field, x: Field | Value, y: Field | Value) -> Field:
    """Reads a tileable texture at fractional tile coordinates (1.0 is one tile), bilinear; x and y broadcast."""
    x, y = np.broadcast_arrays(x, y)
    height, width = texture.shape
    return ndimage.map_coordinates(texture, [y * height, x * width], order=1, mode="grid-wrap", prefilter=False)


def smoothstep(low: float, high: float, value: Field) -> Field:
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def ramp(value: Field, *stops: tuple[float, tuple[float, float, float]]) -> Field:
    """Colours a field: (position, (r, g, b)) stops, linear between them. Adds a last axis of 3."""
    positions = [position for position, _ in stops]
    return np.stack([np.interp(value, positions, [c[i] for _, c in stops]) for i in range(3)], axis=-1).astype(
        np.float32
    )


SKIES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "day": ((0.22, 0.48, 0.86), (0.72, 0.86, 0.96)),
    "sunset": ((0.24, 0.16, 0.38), (0.99, 0.56, 0.22)),
    "night": ((0.01, 0.015, 0.05), (0.05, 0.07, 0.14)),
}
"""Zenith and horizon colour by time of day."""

LIGHT: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "sunset": (1.0, 0.62, 0.42),
    "night": (0.14, 0.17, 0.28),
}
"""What a white, matt surface looks like by time of day: multiply materials by it."""


def sky(canvas: Canvas, time_of_day: TimeOfDay, horizon: float = 1.0) -> Field:
    """A clear sky, float32 (H, W, 3): zenith at the top, horizon colour at ``y = horizon`` and below."""
    zenith, low = SKIES[time_of_day]
    _, y = canvas.grid
    return np.broadcast_to(ramp(y / horizon, (0.0, zenith), (1.0, low)), (canvas.size, canvas.size, 3)).copy()


def over(background: Field, colour: Field, alpha: Field | NDArray[np.bool_]) -> Field:
    """Lays ``colour`` over ``background`` with ``alpha`` in [0, 1], or where it is true (no colour axis). Shapes
    broadcast."""
    return background + (colour - background) * alpha[..., None]


# --- sound -----------------------------------------------------------------------------------------------------------


def noise_band(rng: np.random.Generator, num_samples: int, low_hz: float, high_hz: float, tilt: float = 0.0) -> Field:
    """Stationary noise between two frequencies, unit RMS, float32 (N,). ``tilt``: dB per octave (-3 pink, -6 brown).

    Edges fall off over a third of an octave, so that bands overlap without ringing.
    """
    frequency = np.fft.rfftfreq(num_samples, 1.0 / SAMPLE_RATE)
    octave = np.log2(np.maximum(frequency, 1.0))
    edge = np.clip((octave - np.log2(low_hz)) * 3 + 0.5, 0, 1) * np.clip((np.log2(high_hz) - octave) * 3 + 0.5, 0, 1)
    spectrum = edge * 10 ** (tilt * (octave - np.log2(low_hz)) / 20)
    wave = np.fft.irfft(spectrum * np.exp(2j * np.pi * rng.random(len(frequency))), n=num_samples)
    return (wave / max(float(wave.std()), 1e-9)).astype(np.float32)


def decay(num_samples: int, attack_seconds: float, decay_seconds: float) -> Field:
    """Envelope of a struck sound: linear attack, exponential decay (1/e after ``decay_seconds``), peak 1."""
    t = np.arange(num_samples, dtype=np.float32) / SAMPLE_RATE
    return (
        np.minimum(t / max(attack_seconds, 1e-4), 1.0) * np.exp(-np.maximum(t - attack_seconds, 0) / decay_seconds)
    ).astype(np.float32)


def add_at(track: Field, start: int, wave: Field) -> None:
    """Adds a short sound into a longer one in place; what falls outside is cut. Works for (N,) and (2, N)."""
    end = min(track.shape[-1], start + wave.shape[-1])
    if start < end:
        track[..., start:end] += wave[..., : end - start]


def pan(mono: Field, position: float | Field) -> Field:
    """Constant-power panning, (N,) -> (2, N). ``position``: 0 left to 1 right, a number or one per sample.

    At 0.25 the left channel is 7.7 dB louder than the right one.
    """
    angle = np.asarray(position, dtype=np.float32) * (np.pi / 2)
    return np.stack([mono * np.cos(angle), mono * np.sin(angle)]).astype(np.float32)


def diffuse(rng: np.random.Generator, mono_like: Field, low_hz: float, high_hz: float, tilt: float = 0.0) -> Field:
    """A wide ambience: two independent noise bands under one envelope (N,) -> (2, N)."""
    count = len(mono_like)
    return np.stack([noise_band(rng, count, low_hz, high_hz, tilt) * mono_like for _ in range(2)]).astype(np.float32)


def lowpass(wave: Field, cutoff_hz: float) -> Field:
    """Second-order Butterworth low-pass along the last axis (distance takes the highs away)."""
    sos = signal.butter(2, cutoff_hz, fs=SAMPLE_RATE, output="sos")
    return signal.sosfilt(sos, wave, axis=-1).astype(np.float32)


def slow_noise(rng: np.random.Generator, count: int, smooth: float) -> Field:
    """A slowly wandering value per frame, unit variance before smoothing is normalised, float32 (count,).

    ``smooth``: standard deviation of the Gaussian smoothing in frames.
    """
    pad = int(4 * smooth) + 1
    raw = ndimage.gaussian_filter1d(rng.standard_normal(count + 2 * pad), smooth)[pad:-pad]
    return ((raw - raw.mean()) / max(float(raw.std()), 1e-6)).astype(np.float32)


# --- drawing helpers -------------------------------------------------------------------------------------------------


def enlarge(frames: Field) -> Field:
    """Doubles height and width (axes 1 and 2) bilinearly: (T, h, w) or (T, h, w, 3) -> (T, 2h, 2w, ...)."""
    for axis in (1, 2):
        count = frames.shape[axis]
        before = np.take(frames, np.maximum(np.arange(count) - 1, 0), axis=axis)
        after = np.take(frames, np.minimum(np.arange(count) + 1, count - 1), axis=axis)
        pair = np.stack([0.75 * frames + 0.25 * before, 0.75 * frames + 0.25 * after], axis=axis + 1)
        frames = pair.reshape(*frames.shape[:axis], 2 * count, *frames.shape[axis + 1 :])
    return frames.astype(np.float32, copy=False)


def dots(size: int, x: Field, y: Field, weight: Field, sigma: float) -> Field:
    """Soft round dots at (x, y) in [0, 1] of peak ``weight`` and radius ``sigma`` pixels each, (size, size)."""
    column, row = x * size - 0.5, y * size - 0.5
    picture = np.zeros((size + 2) * (size + 2), np.float32)
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    inside = (left >= -1) & (left < size) & (top >= -1) & (top < size)
    for dy in (0, 1):
        for dx in (0, 1):
            share = np.abs(1 - dx - (column - left)) * np.abs(1 - dy - (row - top)) * weight
            place = (top[inside] + dy + 1) * (size + 2) + left[inside] + dx + 1
            picture += np.bincount(place, share[inside], minlength=picture.size).astype(np.float32)
    blurred = ndimage.gaussian_filter(picture.reshape(size + 2, size + 2), sigma, truncate=3.0)
    return (blurred[1:-1, 1:-1] * (2 * np.pi * sigma**2 + 0.5)).astype(np.float32)


def polygons(size: int, shapes: list[list[tuple[float, float]]]) -> Field:
    """Antialiased filled polygons, corners in [0, 1] as (x, y): coverage in [0, 1], float32 (size, size)."""
    picture = Image.new("L", (size * 4, size * 4))
    pen = ImageDraw.Draw(picture)
    for shape in shapes:
        pen.polygon([(x * size * 4, y * size * 4) for x, y in shape], fill=255)
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX), np.float32) / 255.0


def limit(sound: Field) -> Field:
    """Keeps peaks below 0.95 softly; what is quieter than half of that is left nearly as it is."""
    return (0.95 * np.tanh(sound / 0.95)).astype(np.float32)
