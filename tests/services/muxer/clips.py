"""Small pictures and sounds to mux, and readers that are written apart from the code under test."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from services.muxer.encode import encode_picture
from services.muxer.gate import Expected

RATE = 48_000
SIZE = 64
FPS = Fraction(12)
FLASHES = (3, 10, 17)
"""Frames of `flashing` that are white."""


def flashing(num_frames: int = 24, height: int = SIZE, width: int = SIZE) -> NDArray[np.uint8]:
    """Black, with white frames at `FLASHES`."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[list(FLASHES)] = 255
    return frames


def clicking(fps: Fraction = FPS, num_frames: int = 24) -> NDArray[np.float32]:
    """Stereo; 5 ms of 1 kHz at the begin of every frame of `FLASHES`."""
    sound = np.zeros((2, round(num_frames / fps * RATE)), np.float32)
    burst = 0.8 * np.sin(2 * np.pi * 1000 * np.arange(240) / RATE)
    for frame in FLASHES:
        begin = round(frame / fps * RATE)
        sound[:, begin : begin + 240] = burst
    return sound


def coloured(num_frames: int = 24) -> NDArray[np.uint8]:
    """Four flat quarters: red, green, blue, grey."""
    half = SIZE // 2
    frames = np.empty((num_frames, SIZE, SIZE, 3), np.uint8)
    frames[:, :half, :half] = (200, 30, 30)
    frames[:, :half, half:] = (30, 180, 40)
    frames[:, half:, :half] = (40, 60, 200)
    frames[:, half:, half:] = (128, 128, 128)
    return frames


def write_picture(path: Path, frames: NDArray[np.uint8], fps: Fraction = FPS) -> Expected:
    num_frames, height, width, _ = frames.shape
    expected = Expected(width, height, num_frames, fps, sound_samples=None)
    encode_picture(path, iter(frames), expected, threads=1)
    return expected


def write_carelessly(path: Path, *, tagged: bool, fast_start: bool) -> None:
    """As PyAV does when asked for nothing: `movflags` on the stream instead of the container does nothing."""
    options = {"movflags": "+faststart"}
    with av.open(str(path), "w", format="mp4", options=options if fast_start else {}) as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        if tagged:
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        for pixels in flashing():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def write_sound(path: Path, sound: NDArray[np.float32], rate: int = RATE) -> None:
    """FLAC with as many channels as ``sound`` (C, N) has rows: 1 or 2."""
    layout = {1: "mono", 2: "stereo"}[len(sound)]
    samples = np.round(sound.T * 32767).astype(np.int16).reshape(1, -1)
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def read_picture(path: Path) -> tuple[NDArray[np.uint8], list[float]]:
    """RGB frames (T, H, W, 3), converted by the file's own tags, and their times in seconds."""
    with av.open(str(path)) as container:
        frames = [(frame.to_ndarray(format="rgb24"), frame.time or 0.0) for frame in container.decode(video=0)]
    return np.stack([frame for frame, _ in frames]), [time for _, time in frames]


def read_sound(path: Path) -> tuple[NDArray[np.float32], float]:
    """Samples (C, N), and the time of the first in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    return np.concatenate([frame.to_ndarray().astype(np.float32) for frame in frames], axis=1), frames[0].time or 0.0


def packets(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Bytes, presentation and decoding time of every packet of the picture."""
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                yield bytes(packet), packet.pts or 0, packet.dts or 0
