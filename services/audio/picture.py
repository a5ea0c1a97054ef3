"""Reads a picture, ours or a stranger's: all frames, evenly spaced, and the frame rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from libs.errors import FailedPrecondition

__all__ = ["Picture", "read_picture"]

MOST_SIDE = 256
"""Pixels. Larger frames are made smaller while they are read: sound is made from coarser ones still."""
MOST_PIXELS = 8192 * 4352
"""A frame of more is refused before it is decoded."""
MOST_FPS = 240
MOST_SECONDS = 600
_TAGGED = {1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601, 7: Colorspace.SMPTE240M}
_BT2020 = (9, 10)
_SD_HEIGHT = 720
"""Untagged video below this height is taken for BT.601, other for BT.709, as players do."""


@dataclass(frozen=True)
class Picture:
    """``frames`` (T, H, W, 3) uint8 RGB, no side above `MOST_SIDE`; ``fps`` frames a second."""

    frames: NDArray[np.uint8]
    fps: Fraction

    @property
    def num_samples(self) -> int:
        """Samples a channel of sound at 48 kHz that last as long."""
        return round(len(self.frames) / self.fps * 48_000)


def read_picture(path: Path, *, max_bytes: int, raise_if_cancelled: Callable[[], None]) -> Picture:
    """Any MP4 (or MOV): its first video stream, upright, whatever its codec, size, colours and rate.

    Where frames are not evenly spaced, each is shown until the next one. Raises FailedPrecondition PICTURE_UNREADABLE,
    or PICTURE_TOO_LARGE if the frames read need more than ``max_bytes``, or a limit above is passed.
    """
    try:
        with av.open(str(path), format="mp4") as container:
            stream = container.streams.video[0]
            frames = _Frames(_rate(stream), max_bytes)
            _check_size(stream.codec_context)
            for frame in container.decode(stream):
                raise_if_cancelled()
                frames.show(frame)
    except (av.FFmpegError, IndexError) as error:
        raise _unreadable(str(error)) from error
    if not frames.shown:
        raise _unreadable("it has no frames")
    return Picture(np.stack(frames.shown), frames.fps)


@dataclass
class _Frames:
    """Frames at even intervals, from frames with times."""

    fps: Fraction
    max_bytes: int
    shown: list[NDArray[np.uint8]] = field(default_factory=list)
    _begin: float | None = None

    def show(self, frame: av.VideoFrame) -> None:
        """From its time on; what comes later in the same interval replaces it."""
        pixels, place = _to_rgb(frame), len(self.shown)
        if frame.time is not None:
            self._begin = frame.time if self._begin is None else self._begin
            place = max(round((frame.time - self._begin) * self.fps), 0)
        self._hold(place)
        if place < len(self.shown):
            self.shown[-1] = pixels
        else:
            self._add(pixels)
        if frame.duration and frame.time_base:
            self._hold(place + round(frame.duration * frame.time_base * self.fps))

    def _hold(self, count: int) -> None:
        """The last one until there are ``count``."""
        while self.shown and len(self.shown) < count:
            self._add(self.shown[-1])

    def _add(self, pixels: NDArray[np.uint8]) -> None:
        """Refuses here, not at the end: a frame may say that it is shown for years."""
        if len(self.shown) >= MOST_SECONDS * self.fps:
            raise _too_large(f"it lasts more than {MOST_SECONDS} s; make it shorter")
        allowed = self.max_bytes // pixels.nbytes
        if len(self.shown) >= allowed:
            raise _too_large(
                f"it has more frames than fit into memory ({allowed}); make it shorter, or raise max_picture_mib"
            )
        self.shown.append(pixels)


def _rate(stream: av.VideoStream) -> Fraction:
    rate = stream.average_rate
    if not rate:
        raise _unreadable("it has no frame rate")
    if rate > MOST_FPS:
        raise _unreadable(f"{float(rate):g} frames a second are more than {MOST_FPS}")
    return rate


def _check_size(context: av.VideoCodecContext) -> None:
    if context.width * context.height > MOST_PIXELS:
        raise _too_large(
            f"its frames of {context.width}x{context.height} have more than {MOST_PIXELS} pixels; make them smaller"
        )


def _to_rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """By the matrix and range that the frame is tagged with."""
    shrink = min(1.0, MOST_SIDE / max(frame.width, frame.height))
    rgb = frame.reformat(
        width=max(1, round(frame.width * shrink)),
        height=max(1, round(frame.height * shrink)),
        format="rgb24",
        src_colorspace=_matrix(frame),
        src_color_range=ColorRange.JPEG if frame.color_range == ColorRange.JPEG else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.AREA if shrink < 1 else None,
    )
    pixels = rgb.to_ndarray().astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90))) if frame.rotation else pixels


def _matrix(frame: av.VideoFrame) -> Colorspace:
    if frame.colorspace in _BT2020:
        return Colorspace.BT2020
    guess = Colorspace.ITU601 if frame.height < _SD_HEIGHT else Colorspace.ITU709
    return _TAGGED.get(int(frame.colorspace), guess)


def _unreadable(detail: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the picture cannot be used: {detail}; pass an MP4 with a video stream", reason="PICTURE_UNREADABLE"
    )


def _too_large(detail: str) -> FailedPrecondition:
    return FailedPrecondition(f"the picture is too large: {detail}", reason="PICTURE_TOO_LARGE")
