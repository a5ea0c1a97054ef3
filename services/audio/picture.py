"""Reads a rendered picture: all frames, and the exact frame rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from libs.errors import FailedPrecondition

__all__ = ["Picture", "read_picture"]


@dataclass(frozen=True)
class Picture:
    """``frames`` (T, H, W, 3) uint8 RGB; ``fps`` frames a second."""

    frames: NDArray[np.uint8]
    fps: Fraction

    @property
    def num_samples(self) -> int:
        """Samples a channel of sound at 48 kHz that last as long."""
        return round(len(self.frames) / self.fps * 48_000)


def read_picture(path: Path, *, max_bytes: int, raise_if_cancelled: Callable[[], None]) -> Picture:
    """Raises FailedPrecondition PICTURE_UNREADABLE, or PICTURE_TOO_LARGE if the frames need more than ``max_bytes``."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            fps = stream.average_rate
            frames = _frames(container.decode(stream), _allowed(stream, max_bytes), raise_if_cancelled)
    except (av.FFmpegError, IndexError) as error:
        raise _unreadable(str(error)) from error
    if not frames or not fps:
        raise _unreadable("it has no frames")
    return Picture(np.stack(frames), fps)


def _allowed(stream: av.VideoStream, max_bytes: int) -> int:
    """Number of frames that fit."""
    frame_bytes = max(1, stream.codec_context.width * stream.codec_context.height * 3)
    return max_bytes // frame_bytes


def _frames(
    decoded: Iterable[av.VideoFrame], allowed: int, raise_if_cancelled: Callable[[], None]
) -> list[NDArray[np.uint8]]:
    frames: list[NDArray[np.uint8]] = []
    for frame in decoded:
        raise_if_cancelled()
        if len(frames) == allowed:
            raise FailedPrecondition(
                f"the picture has more frames than fit into memory ({allowed}); make it shorter or smaller, or raise "
                "max_picture_mib",
                reason="PICTURE_TOO_LARGE",
            )
        frames.append(_to_rgb(frame))
    return frames


def _to_rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """By the BT.709 matrix: `Render` writes nothing else."""
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    return rgb.to_ndarray().astype(np.uint8, copy=False)


def _unreadable(detail: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the picture cannot be used: {detail}; pass the reference that Render returned", reason="PICTURE_UNREADABLE"
    )
