"""Writes sound as FLAC: 24 bit, 48 kHz, stereo."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

__all__ = ["SAMPLE_RATE", "write_flac"]

SAMPLE_RATE = 48_000
_FULL_SCALE = 2**23 - 1
_BLOCK_SAMPLES = 1 << 16


def write_flac(path: Path, sound: NDArray[np.float32]) -> None:
    """``sound`` (2, N) in [-1, 1] is rounded to 24 bits; equal sounds give equal bytes."""
    with av.open(str(path), "w", format="flac") as container:
        # FFmpeg's encoder takes 24 bits as the upper ones of 32, and says so: s32 without more means 24 in FLAC.
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="stereo")
        stream.codec_context.format = "s32"
        for begin in range(0, sound.shape[1], _BLOCK_SAMPLES):
            frame = _to_frame(sound[:, begin : begin + _BLOCK_SAMPLES])
            frame.pts = begin
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _to_frame(sound: NDArray[np.float32]) -> av.AudioFrame:
    samples = np.round(sound.astype(np.float64) * _FULL_SCALE).clip(-_FULL_SCALE, _FULL_SCALE).astype(np.int32)
    interleaved = np.ascontiguousarray((samples << 8).T.reshape(1, -1))
    frame = av.AudioFrame.from_ndarray(interleaved, format="s32", layout="stereo")
    frame.sample_rate = SAMPLE_RATE
    return frame
