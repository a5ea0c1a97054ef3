"""Pictures of any origin: sizes, rates, colours, codecs and orientations that `Render` does not make."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from libs.errors import FailedPrecondition
from libs.families import load_sound
from services.audio.picture import MOST_SIDE, Picture, _Frames, read_picture

RED = (200, 40, 60)


def write(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    *,
    times: Sequence[int] | None = None,
    rate: int = 25,
    codec: str = "libx264",
    matrix: int = 1,
    full: bool = False,
) -> Path:
    """``times``: of the frames, in units of 1 / ``rate`` seconds; ``matrix``: as H.273 numbers it."""
    height, width, _ = frames[0].shape
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=rate, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=matrix, dst_color_range=2 if full else 1, src_color_range=2
            )
            frame.pts, frame.time_base = (times[index] if times else index), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path: Path, max_bytes: int = 1 << 28) -> Picture:
    return read_picture(path, max_bytes=max_bytes, raise_if_cancelled=lambda: None)


def flat(colour: tuple[int, int, int], height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    return np.full((height, width, 3), colour, np.uint8)


def test_a_large_picture_is_made_smaller_while_it_is_read(tmp_path: Path) -> None:
    """Its 20 frames need 118 MiB when whole, and 2.9 small."""
    frame = flat(RED, 1080, 1920)
    frame[:, 960:] = 0
    picture = read(write(tmp_path / "hd.mp4", [frame] * 20, codec="mpeg4"), max_bytes=4 << 20)
    assert picture.frames.shape == (20, 144, MOST_SIDE, 3)
    np.testing.assert_allclose(picture.frames[:, :, :100].mean((0, 1, 2)), RED, atol=6)
    assert picture.frames[:, :, 160:].mean() < 6


@pytest.mark.parametrize(("matrix", "full"), [(1, False), (5, False), (6, True), (9, False)])
def test_colours_are_those_of_the_tags(tmp_path: Path, matrix: int, full: bool) -> None:
    written = 5 if matrix == 6 else matrix
    path = write(tmp_path / "tagged.mp4", [flat(RED)] * 3, matrix=written, full=full)
    np.testing.assert_allclose(read(path).frames.mean((0, 1, 2)), RED, atol=4)


def test_uneven_frames_are_each_shown_until_the_next(tmp_path: Path) -> None:
    """At 0, 40, 80, 520 and 560 ms: nothing is said between 120 and 520."""
    greys = [flat((level,) * 3) for level in (0, 50, 100, 150, 200)]
    path = write(tmp_path / "uneven.mp4", greys, times=[0, 1, 2, 13, 14])
    picture = read(path)
    levels = picture.frames[..., 0].mean((1, 2))
    assert picture.num_samples / 48_000 == pytest.approx(15 / 25, abs=1.5 / float(picture.fps))
    half = round(0.4 * picture.fps)
    assert levels[half] == pytest.approx(100, abs=4)
    assert levels[-1] == pytest.approx(200, abs=4)


@pytest.mark.parametrize(("codec", "matrix"), [("mpeg4", 5), ("libx265", 1), ("libsvtav1", 1)])
def test_other_codecs_are_read(tmp_path: Path, codec: str, matrix: int) -> None:
    """MPEG-4 keeps no tags: a small picture is then taken for BT.601."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot write {codec}")
    picture = read(write(tmp_path / "other.mp4", [flat(RED)] * 5, rate=30, codec=codec, matrix=matrix))
    assert (len(picture.frames), picture.fps) == (5, 30)
    np.testing.assert_allclose(picture.frames.mean((0, 1, 2)), RED, atol=8)


def test_a_telephone_held_upright_is_read_upright(tmp_path: Path) -> None:
    """It films on its side, and says so in the track's matrix: a quarter turn clockwise."""
    frame = flat((0, 0, 0))
    frame[:32] = 255
    path = write(tmp_path / "upright.mp4", [frame] * 3)
    data = bytearray(path.read_bytes())
    straight = b"".join(number.to_bytes(4, "big") for number in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    turned = b"".join(
        number.to_bytes(4, "big", signed=True) for number in (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    )
    place = data.index(straight, data.index(b"tkhd"))
    data[place : place + len(turned)] = turned
    path.write_bytes(data)
    frames = read(path).frames
    assert frames.shape == (3, 96, 64, 3)
    assert frames[:, :, 40:].mean() > 240 > 15 > frames[:, :, :24].mean()


def test_what_cannot_be_read_says_what_to_pass(tmp_path: Path) -> None:
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\nfile:///etc/passwd\n")
    with pytest.raises(FailedPrecondition, match="pass an MP4 with a video stream") as refused:
        read(tmp_path / "playlist.mp4")
    assert refused.value.reason == "PICTURE_UNREADABLE"


@pytest.mark.parametrize(
    ("times", "most_frames", "says"),
    [(range(30), 20, "fit into memory"), ([0, 25 * 700, 25 * 1400], 99, "more than 600")],
)
def test_what_is_too_long_is_refused(tmp_path: Path, times: Sequence[int], most_frames: int, says: str) -> None:
    path = write(tmp_path / "long.mp4", [flat(RED)] * len(times), times=times)
    with pytest.raises(FailedPrecondition, match=says) as refused:
        read(path, max_bytes=64 * 96 * 3 * most_frames)
    assert refused.value.reason == "PICTURE_TOO_LARGE"


def test_a_frame_that_is_shown_for_years_is_refused_before_it_is_held_so_long() -> None:
    frames = _Frames(Fraction(25), max_bytes=1 << 40, shown=[flat(RED, 1, 1)])
    with pytest.raises(FailedPrecondition, match="more than 600"):
        frames._hold(10**6)
    assert len(frames.shown) == 600 * 25


def test_the_trained_sound_fits_a_picture_that_diorama_did_not_make(tmp_path: Path) -> None:
    """Drawn here, 640x360 at 30 frames a second: white flashes on the left of a dark sky."""
    frames = [flat((8, 8, 20), 360, 640) for _ in range(90)]
    flashes = (24, 60)
    y, x = np.mgrid[:360, :640]
    glow = np.exp(-((x - 130) ** 2 + (y - 150) ** 2) / 4000)[..., None]
    for begin in flashes:
        for age in range(15):
            lit = frames[begin + age] + 255 * glow * 0.8**age
            frames[begin + age] = lit.clip(0, 255).astype(np.uint8)
    picture = read(write(tmp_path / "flashes.mp4", frames, rate=30))
    sound = load_sound(Path("models/diorama"), "diorama")(
        picture.frames, float(picture.fps), "fireworks exploding at night", "full", 3
    )
    assert sound.shape == (2, 3 * 48_000)
    loud = (sound**2).sum(0).reshape(-1, 1600).sum(1)  # by frame
    for begin in flashes:
        assert loud[begin : begin + 12].mean() > 2 * loud[begin - 8 : begin - 2].mean()
    left, right = (sound**2).sum(1)
    assert left > right
