"""What a delivered file is, found out by decoding it with PyAV, apart from the muxer's own gate."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

__all__ = ["Film", "psnr", "read_film"]


@dataclass(frozen=True)
class Film:
    """``frames`` (T, H, W, 3) uint8, ``sound`` (2, N) float32 in [-1, 1]; times and lengths in seconds."""

    streams: tuple[str, ...]
    boxes: tuple[str, ...]
    """Names of the MP4 boxes at top level, in order."""
    video_codec: tuple[str | None, str | None, str | None]
    """(name, profile, pixel format)."""
    colour: tuple[int, int, int, int]
    """(matrix, primaries, transfer, range), ITU-T H.273 numbers: 1, 1, 1, 1 is BT.709 in limited range."""
    rate: Fraction | None
    frames: NDArray[np.uint8]
    times: tuple[Fraction, ...]
    picture_seconds: Fraction
    audio_codec: tuple[str | None, str | None]
    sample_rate: int
    sound: NDArray[np.float32]
    sound_start: Fraction
    sound_seconds: Fraction

    @property
    def loudness_db(self) -> float:
        """Root mean square of the sound in dBFS."""
        return float(20 * np.log10(np.sqrt(np.mean(np.square(self.sound, dtype=np.float64))) + 1e-12))


def read_film(path: Path) -> Film:
    with av.open(str(path)) as container:
        streams = tuple(stream.type for stream in container.streams)
        video = container.streams.video[0]
        pictures = list(container.decode(video))
        context = video.codec_context
        picture = {
            "video_codec": (context.name, context.profile, context.pix_fmt),
            "colour": (context.colorspace, context.color_primaries, context.color_trc, context.color_range),
            "rate": video.average_rate,
            "frames": np.stack([_rgb(frame) for frame in pictures]),
            "times": tuple(_time(frame) for frame in pictures),
            "picture_seconds": _length(video),
        }
    with av.open(str(path)) as container:
        audio = container.streams.audio[0]
        blocks = list(container.decode(audio))
        heard = {
            "audio_codec": (audio.codec_context.name, audio.codec_context.profile),
            "sample_rate": audio.codec_context.sample_rate,
            "sound": np.concatenate([block.to_ndarray() for block in blocks], axis=1),
            "sound_start": _time(blocks[0]),
            "sound_seconds": _length(audio),
        }
    return Film(streams=streams, boxes=_boxes(path.read_bytes()), **picture, **heard)  # type: ignore[arg-type]


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two pictures, in dB."""
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return float(10 * np.log10(255.0**2 / max(error, 1e-9)))


def _rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    return frame.reformat(
        format="rgb24",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    ).to_ndarray()


def _time(frame: Any) -> Fraction:
    return Fraction(frame.pts * frame.time_base)


def _length(stream: Any) -> Fraction:
    return Fraction(stream.duration * stream.time_base)


def _boxes(data: bytes) -> tuple[str, ...]:
    """ISO/IEC 14496-12, 4.2; the files here are small, so sizes have 32 bits."""
    names, place = [], 0
    while place < len(data):
        names.append(data[place + 4 : place + 8].decode("latin-1"))
        place += int.from_bytes(data[place : place + 4])
    return tuple(names)
