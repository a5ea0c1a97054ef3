"""Child process: a silent picture and a sound become one MP4 and a poster; the file then passes the gate.

The picture's packets are copied, not encoded again. AAC begins with 1024 samples of priming: the encoder gives them
negative times, and the MP4 writer turns those into an edit list, so that what is heard first is the sound's beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import merge
from pathlib import Path
from typing import IO, Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from libs.errors import FailedPrecondition
from services.muxer.child import answer
from services.muxer.encode import MP4_OPTIONS
from services.muxer.gate import SAMPLE_RATE, Expected, check_file
from services.muxer.poster import fullest_frame, save_jpeg

__all__ = ["assemble", "write_poster"]

_AAC_BIT_RATE = 192_000
_LENGTH_TOLERANCE_SECONDS = Fraction(1, 1000)


@dataclass
class _Count:
    samples: int = 0


def assemble(picture: Path, sound: Path, video: Path, title: str) -> Expected:
    """Write ``video``. Raises FailedPrecondition PICTURE_UNREADABLE, SOUND_UNREADABLE or SOUND_LENGTH."""
    with (
        _open(picture, "PICTURE_UNREADABLE") as picture_in,
        _open(sound, "SOUND_UNREADABLE") as sound_in,
        av.open(str(video), "w", format="mp4", options=MP4_OPTIONS) as out,
    ):
        picture_stream = _picture_stream(picture_in)
        sound_stream = _sound_stream(sound_in)
        if title:
            out.metadata["title"] = title
        picture_out = out.add_stream_from_template(picture_stream)
        sound_out = out.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
        sound_out.bit_rate = _AAC_BIT_RATE
        count = _Count()
        copied = _copied(picture_in, picture_stream, picture_out)
        encoded = _encoded(sound_in, sound_stream, sound_out, count)
        for packet in merge(copied, encoded, key=_decode_time):
            out.mux(packet)
        expected = _expected(picture_stream, count.samples)
    _check_length(expected)
    return expected


def write_poster(picture: Path, poster: Path) -> int:
    """Write the poster and return the index of its frame."""
    with _open(picture, "PICTURE_UNREADABLE") as container:
        stream = _picture_stream(container)
        try:
            index, frame = fullest_frame(container.decode(stream))
        except (av.FFmpegError, ValueError) as error:
            raise _unreadable("PICTURE_UNREADABLE", str(error)) from error
        save_jpeg(frame, poster)
    return index


def _open(path: Path, reason: str) -> InputContainer:
    try:
        return av.open(str(path))
    except av.FFmpegError as error:
        raise _unreadable(reason, error.strerror or str(error)) from error


def _picture_stream(container: InputContainer) -> VideoStream:
    streams = container.streams.video
    if len(streams) != 1 or streams[0].codec_context.name != "h264" or not streams[0].average_rate:
        raise _unreadable("PICTURE_UNREADABLE", "it must have one H.264 stream")
    return streams[0]


def _sound_stream(container: InputContainer) -> AudioStream:
    streams = container.streams.audio
    if len(streams) != 1:
        raise _unreadable("SOUND_UNREADABLE", "it must have one sound stream")
    context = streams[0].codec_context
    if (context.sample_rate, context.layout.nb_channels) != (SAMPLE_RATE, 2):
        found = f"{context.sample_rate} Hz with {context.layout.nb_channels} channels"
        raise _unreadable("SOUND_UNREADABLE", f"it must be 48000 Hz stereo, not {found}")
    return streams[0]


def _unreadable(reason: str, detail: str) -> FailedPrecondition:
    what, stage = ("picture", "Render") if reason == "PICTURE_UNREADABLE" else ("sound", "Synthesize")
    message = f"the {what} cannot be used: {detail}; pass the reference that {stage} returned"
    return FailedPrecondition(message, reason=reason)


def _copied(container: InputContainer, stream: VideoStream, out: VideoStream) -> Iterator[Packet[Any]]:
    try:
        for packet in container.demux(stream):
            # The empty packet that ends demuxing would be written as a frame.
            if packet.size:
                packet.stream = out
                yield packet
    except av.FFmpegError as error:
        raise _unreadable("PICTURE_UNREADABLE", str(error)) from error


def _encoded(container: InputContainer, stream: AudioStream, out: AudioStream, count: _Count) -> Iterator[Packet[Any]]:
    try:
        for frame in container.decode(stream):
            count.samples += frame.samples
            yield from out.encode(frame)
    except av.FFmpegError as error:
        raise _unreadable("SOUND_UNREADABLE", str(error)) from error
    yield from out.encode(None)


def _decode_time(packet: Packet[Any]) -> Fraction:
    return (packet.dts or 0) * packet.time_base


def _expected(stream: VideoStream, sound_samples: int) -> Expected:
    context = stream.codec_context
    rate = stream.average_rate
    assert rate is not None
    return Expected(context.width, context.height, stream.frames, rate, sound_samples)


def _check_length(expected: Expected) -> None:
    sound_seconds = Fraction(expected.sound_samples or 0, SAMPLE_RATE)
    if abs(sound_seconds - expected.duration) > _LENGTH_TOLERANCE_SECONDS:
        raise FailedPrecondition(
            f"the sound lasts {float(sound_seconds):.3f} s and the picture {float(expected.duration):.3f} s; pass the "
            "sound that Synthesize made for this picture",
            reason="SOUND_LENGTH",
            sound_seconds=f"{float(sound_seconds):.6f}",
            picture_seconds=f"{float(expected.duration):.6f}",
        )


def _work(job: dict[str, Any], _stdin: IO[bytes]) -> dict[str, object]:
    picture, sound, video, poster = (Path(job[name]) for name in ("picture", "sound", "video", "poster"))
    poster_frame = write_poster(picture, poster)
    expected = assemble(picture, sound, video, job["title"])
    check_file(video, expected)
    return {"duration_seconds": float(expected.duration), "poster_frame": poster_frame}


if __name__ == "__main__":
    answer(_work)
