"""Child process: raw RGB frames on stdin become a silent H.264 picture, which then passes the gate.

PyAV's own defaults would be wrong here: RGB becomes yuv420p with the BT.601 matrix and without tags, and `movflags`
given to the stream instead of the container is ignored silently, which leaves the index at the file's end.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from numpy.typing import NDArray

from libs.errors import Internal
from services.muxer.child import answer
from services.muxer.gate import Expected, check_file

__all__ = ["MP4_OPTIONS", "encode_picture"]

MP4_OPTIONS = {
    "movflags": "+faststart",
    # The edit lists, which say when a stream starts and ends, count in this unit; the default of 1/1000 s would cut the
    # sound to whole milliseconds.
    "movie_timescale": "48000",
}

CRF = 17
PRESET = "medium"
_BT709 = 1
_LIMITED = 1


def encode_picture(path: Path, frames: Iterator[NDArray[np.uint8]], expected: Expected, threads: int) -> None:
    """Write ``frames``, each (H, W, 3) RGB, as H.264 High, yuv420p, BT.709 in limited range, at constant rate.

    ``threads`` is fixed by the caller because x264's output depends on it.
    """
    time_base = 1 / expected.fps
    with av.open(str(path), "w", format="mp4", options=MP4_OPTIONS) as container:
        stream = container.add_stream("libx264", rate=expected.fps, options=_x264_options(expected.fps))
        stream.width, stream.height, stream.pix_fmt = expected.width, expected.height, "yuv420p"
        context = stream.codec_context
        context.time_base = time_base
        context.thread_count = threads
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        for index, pixels in enumerate(frames):
            frame = _to_yuv(pixels)
            frame.pts, frame.time_base = index, time_base
            for packet in stream.encode(frame):
                packet.duration = 1
                container.mux(packet)
        for packet in stream.encode(None):
            packet.duration = 1
            container.mux(packet)


def _x264_options(fps: Fraction) -> dict[str, str]:
    """A key frame exactly every two seconds: seeking is quick, and segments could be cut there."""
    keyint = max(1, round(2 * fps))
    return {
        "crf": str(CRF),
        "preset": PRESET,
        "profile": "high",
        "x264-params": f"keyint={keyint}:min-keyint={keyint}:scenecut=0:open-gop=0",
    }


def _to_yuv(pixels: NDArray[np.uint8]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        dst_color_primaries=ColorPrimaries.BT709,
        dst_color_trc=ColorTrc.BT709,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
    )


def _frames_from(stdin: IO[bytes], expected: Expected) -> Iterator[NDArray[np.uint8]]:
    size = expected.width * expected.height * 3
    for index in range(expected.num_frames):
        data = stdin.read(size)
        if len(data) < size:
            raise Internal(f"frames end after {index} of {expected.num_frames}", reason="FRAMES_CUT_OFF")
        yield np.frombuffer(data, np.uint8).reshape(expected.height, expected.width, 3)


def _work(job: dict[str, Any], stdin: IO[bytes]) -> dict[str, object]:
    fps = Fraction(job["fps_numerator"], job["fps_denominator"])
    expected = Expected(job["width"], job["height"], job["num_frames"], fps, sound_samples=None)
    path = Path(job["path"])
    encode_picture(path, _frames_from(stdin, expected), expected, job["threads"])
    check_file(path, expected)
    return {}


if __name__ == "__main__":
    answer(_work)
