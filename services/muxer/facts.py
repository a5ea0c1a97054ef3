"""What a finished media file is, found out by opening it anew and decoding all of it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

__all__ = ["FileFacts", "PictureFacts", "SoundFacts", "read_facts"]


@dataclass(frozen=True)
class PictureFacts:
    """``colour`` is (matrix, primaries, transfer, range) in ITU-T H.273 numbers; times are presentation times."""

    codec: str
    profile: str
    pixel_format: str
    width: int
    height: int
    colour: tuple[int, int, int, int]
    rate: Fraction
    duration: Fraction
    """Seconds, as the container tells."""
    times: tuple[Fraction, ...]
    """Seconds, one a decoded frame."""


@dataclass(frozen=True)
class SoundFacts:
    codec: str
    profile: str
    rate: int
    channels: int
    duration: Fraction
    """Seconds, as the container tells."""
    times: tuple[Fraction, ...]
    """Seconds, one a decoded block."""
    samples: int
    finite: bool


@dataclass(frozen=True)
class FileFacts:
    boxes: tuple[str, ...]
    """Names of the MP4 boxes at top level, in order."""
    streams: tuple[str, ...]
    picture: PictureFacts
    sound: SoundFacts | None


def read_facts(path: Path) -> FileFacts:
    """Raises av.FFmpegError or LookupError for a file that is no readable video."""
    with path.open("rb") as file:
        boxes = tuple(_boxes(file))
    with av.open(str(path)) as container:
        streams = tuple(stream.type for stream in container.streams)
        picture = _picture_facts(container, container.streams.video[0])
    with av.open(str(path)) as container:
        sound = _sound_facts(container, container.streams.audio[0]) if container.streams.audio else None
    return FileFacts(boxes, streams, picture, sound)


def _picture_facts(container: InputContainer, stream: VideoStream) -> PictureFacts:
    times = tuple(_time(frame) for frame in container.decode(stream))
    context = stream.codec_context
    return PictureFacts(
        codec=context.name,
        profile=context.profile or "",
        pixel_format=context.pix_fmt or "",
        width=context.width,
        height=context.height,
        colour=(context.colorspace, context.color_primaries, context.color_trc, context.color_range),
        rate=stream.average_rate or Fraction(0),
        duration=_duration(stream),
        times=times,
    )


def _sound_facts(container: InputContainer, stream: AudioStream) -> SoundFacts:
    times, samples, finite = [], 0, True
    for frame in container.decode(stream):
        times.append(_time(frame))
        samples += frame.samples
        finite = finite and bool(np.isfinite(frame.to_ndarray()).all())
    context = stream.codec_context
    return SoundFacts(
        codec=context.name,
        profile=context.profile or "",
        rate=context.sample_rate,
        channels=context.layout.nb_channels,
        duration=_duration(stream),
        times=tuple(times),
        samples=samples,
        finite=finite,
    )


def _time(frame: av.VideoFrame | av.AudioFrame) -> Fraction:
    if frame.pts is None or frame.time_base is None:
        raise LookupError("a decoded frame has no time")
    return frame.pts * frame.time_base


def _duration(stream: VideoStream | AudioStream) -> Fraction:
    if stream.duration is None or stream.time_base is None:
        raise LookupError(f"the {stream.type} stream has no duration")
    return stream.duration * stream.time_base


def _boxes(file: IO[bytes]) -> list[str]:
    """ISO/IEC 14496-12, 4.2: 32-bit size and name; size 1 means a 64-bit size follows, 0 that the box is the last."""
    names = []
    while len(header := file.read(8)) == 8:
        size, consumed = int.from_bytes(header[:4]), 8
        if size == 1:
            size, consumed = int.from_bytes(file.read(8)), 16
        names.append(header[4:].decode("latin-1"))
        if size < consumed:
            break
        file.seek(size - consumed, 1)
    return names
