"""Sound as shaped noise: a stereo envelope in 64 bands, 192 times a second, and back.

Fire, rain, surf, wind and thunder are noise whose spectrum changes, so the levels of bands of noise are all there is to
know about them. Both directions use one filter bank: each band is cut out of the spectrum of the *whole* clip and
sampled at its own rate (a non-stationary Gabor transform: Balazs et al. 2011, "Theory, implementation and
applications of nonstationary Gabor frames"). A band twice as wide resolves time twice as finely: a clap that starts in
one hop starts there after the round trip too, without the pre-echo of a spectrogram with one long window.

Units: an envelope holds decibels of mean square relative to full scale, so that the powers of all bands of a channel
add up to the mean square of its samples. ``FLOOR_DB`` means silence.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 48_000
HOP = 250
"""Samples per envelope column: 16 columns per frame at 12 frames a second."""
COLUMNS_PER_FRAME = 16
BANDS = 64
FLOOR_DB = -90.0

LOWEST_HZ = 25.0
HIGHEST_HZ = 22_000.0
LINEAR_BELOW_HZ = 1_000.0
"""Bands are equally wide well below this frequency and equally wide in octaves well above it, as in a mel scale."""

PAD_COLUMNS = 16
"""Columns added before and after a clip: the transform is circular, the end would ring into the beginning."""

COHERENCE_LOW, COHERENCE_HIGH = 0.85, 0.3
"""Share of a channel's noise power that both channels have in common, in the lowest and in the highest band. All of it
would sound mono, none of it hollow; in a room it falls with frequency."""

Envelope = NDArray[np.floating]
"""Decibels, (2, BANDS, columns)."""


def centres() -> NDArray[np.float64]:
    """Centre frequencies of the bands in Hz, rising, (BANDS,)."""
    edges = np.arcsinh(np.array([LOWEST_HZ, HIGHEST_HZ]) / LINEAR_BELOW_HZ)
    return np.sinh(np.linspace(edges[0], edges[1], BANDS)) * LINEAR_BELOW_HZ


def analyse(sound: NDArray[np.floating], num_frames: int) -> NDArray[np.float16]:
    """Measures the envelope of a sound: float (2, N) -> decibels, float16 (2, BANDS, 16 * num_frames).

    The sound is cut or extended with zeros to ``num_frames`` twelfths of a second. Levels are smoothed over three
    columns, and over five bands where bands are narrow: the level of a narrow band of noise fluctuates by itself.
    """
    columns = COLUMNS_PER_FRAME * num_frames
    spectrum = np.fft.rfft(_padded(sound, columns), axis=-1)
    total = columns + 2 * PAD_COLUMNS
    power = np.zeros((2, BANDS, total))
    for index, (rate, bins, window) in enumerate(_filters(total)):
        band = np.zeros((2, rate * total), np.complex128)
        band[:, bins % (rate * total)] = spectrum[:, bins] * window
        wave = np.fft.ifft(band, axis=-1) * (rate / HOP)
        power[:, index] = 2.0 * (np.abs(wave) ** 2).reshape(2, total, rate).mean(axis=-1)
    smooth = _smooth(power)[..., PAD_COLUMNS : PAD_COLUMNS + columns]
    return (10.0 * np.log10(np.maximum(smooth, 10 ** (FLOOR_DB / 10)))).astype(np.float16)


def synthesise(envelope: Envelope, seed: int, num_samples: int) -> NDArray[np.float32]:
    """Shapes seeded noise by an envelope: decibels (2, BANDS, columns) -> sound, float32 (2, num_samples).

    The same envelope and seed give the same samples; the noise of a band does not depend on the envelope. Bands at
    ``FLOOR_DB`` are left out, so an envelope of nothing but floor gives exact zeros. Peaks are limited to 0.95 softly.
    Raises ``ValueError`` when the shape is wrong or the envelope is too short for ``num_samples``.
    """
    if envelope.ndim != 3 or envelope.shape[:2] != (2, BANDS):
        raise ValueError(f"the envelope has shape {envelope.shape}: give (2, {BANDS}, columns)")
    if envelope.shape[-1] * HOP < num_samples:
        raise ValueError(f"{envelope.shape[-1]} columns last {envelope.shape[-1] * HOP} samples, not {num_samples}")
    padded = np.pad(envelope.astype(np.float64), ((0, 0), (0, 0), (PAD_COLUMNS, PAD_COLUMNS)), mode="edge")
    amplitude = np.where(padded <= FLOOR_DB + 0.01, 0.0, 10 ** (padded / 20))
    wave = np.fft.irfft(_shaped_spectrum(amplitude, seed), n=padded.shape[-1] * HOP, axis=-1)
    start = PAD_COLUMNS * HOP
    return limit(wave[:, start : start + num_samples])


def limit(sound: NDArray[np.floating]) -> NDArray[np.float32]:
    """Keeps samples below 0.95: what is below 0.5 is unchanged, above it bends towards 0.95 (tanh)."""
    size = np.abs(sound)
    bent = 0.5 + 0.45 * np.tanh((size - 0.5) / 0.45)
    return np.asarray(np.sign(sound) * np.where(size <= 0.5, size, bent), np.float32)


def _shaped_spectrum(amplitude: NDArray[np.float64], seed: int) -> NDArray[np.complex128]:
    """Spectrum of the padded clip, complex (2, bins), from amplitudes (2, BANDS, columns)."""
    total = amplitude.shape[-1]
    spectrum = np.zeros((2, total * HOP // 2 + 1), np.complex128)
    for index, (rate, bins, window) in enumerate(_filters(total)):
        noise = _noise(np.random.default_rng([seed, index]), rate * total, index)
        shaped = np.fft.fft(noise * _per_sample(amplitude[:, index], rate), axis=-1)
        # A band holds only part of the noise's bandwidth: the gain gives it the power that its envelope says.
        gain = np.sqrt(rate * total / np.sum(window**2) / 2.0) * (HOP / rate)
        spectrum[:, bins] += shaped[:, bins % (rate * total)] * window * gain
    return spectrum


def _noise(rng: np.random.Generator, count: int, index: int) -> NDArray[np.complex128]:
    """Complex white noise of unit power for both channels, (2, count), partly common to them."""
    parts = rng.standard_normal((3, 2, count))
    common, left, right = (parts[:, 0] + 1j * parts[:, 1]) / np.sqrt(2.0)
    share = COHERENCE_LOW + (COHERENCE_HIGH - COHERENCE_LOW) * index / (BANDS - 1)
    own = np.stack([left, right]) * np.sqrt(1.0 - share)
    return np.asarray(common * np.sqrt(share) + own)


def _per_sample(amplitude: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """Interpolates amplitudes between the middles of columns: (2, columns) -> (2, rate * columns)."""
    columns = amplitude.shape[-1]
    at = (np.arange(rate * columns) + 0.5) / rate - 0.5
    return np.stack([np.interp(at, np.arange(columns), channel) for channel in amplitude])


def _padded(sound: NDArray[np.floating], columns: int) -> NDArray[np.float64]:
    out = np.zeros((2, (columns + 2 * PAD_COLUMNS) * HOP))
    kept = sound[:, : columns * HOP]
    out[:, PAD_COLUMNS * HOP : PAD_COLUMNS * HOP + kept.shape[-1]] = kept
    return out


def _smooth(power: NDArray[np.float64]) -> NDArray[np.float64]:
    in_time = (np.roll(power, 1, -1) + 2 * power + np.roll(power, -1, -1)) / 4
    over_bands = sum(
        weight * in_time[:, _neighbours(step)] for step, weight in ((-2, 1), (-1, 2), (0, 3), (1, 2), (2, 1))
    )
    narrow = np.clip((24 - np.arange(BANDS)) / 8, 0.0, 1.0)[None, :, None]
    return np.asarray(in_time + (np.asarray(over_bands) / 9 - in_time) * narrow)


def _neighbours(step: int) -> NDArray[np.int64]:
    return np.clip(np.arange(BANDS) + step, 0, BANDS - 1)


@lru_cache(maxsize=4)
def _filters(total: int) -> tuple[tuple[int, NDArray[np.int64], NDArray[np.float64]], ...]:
    """For each band of a clip of ``total`` columns: samples per column, its FFT bins and their weights.

    Weights are sine and cosine slopes between neighbouring centres, so that their squares add up to one.
    """
    frequency = np.arange(total * HOP // 2 + 1) * (SAMPLE_RATE / (total * HOP))
    place = np.interp(frequency, centres(), np.arange(BANDS), left=-0.999, right=BANDS - 0.001)
    filters = []
    for index in range(BANDS):
        bins = np.flatnonzero(np.abs(place - index) < 1.0)
        bins = bins[(frequency[bins] > LOWEST_HZ / 2) & (frequency[bins] < HIGHEST_HZ)]
        window = np.cos(np.pi / 2 * (place[bins] - index))
        if index == 0:
            window = np.where(place[bins] < 0, 1.0, window)
        filters.append((max(1, -(-len(bins) // total)), bins, window))
    return tuple(filters)
