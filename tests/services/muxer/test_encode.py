from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from services.muxer.gate import check_file
from tests.services.muxer.clips import SIZE, coloured, flashing, read_picture, write_picture


def test_colours_survive(tmp_path: Path) -> None:
    frames = coloured()
    write_picture(tmp_path / "p.mp4", frames)
    decoded, _ = read_picture(tmp_path / "p.mp4")
    for y in (SIZE // 4, 3 * SIZE // 4):
        for x in (SIZE // 4, 3 * SIZE // 4):
            assert np.abs(decoded[:, y, x].astype(int) - frames[:, y, x]).max() <= 4


def test_luma_is_bt709_not_pyavs_default_bt601(tmp_path: Path) -> None:
    write_picture(tmp_path / "p.mp4", np.full((12, SIZE, SIZE, 3), (200, 30, 30), np.uint8))
    with av.open(str(tmp_path / "p.mp4")) as container:
        luma = next(container.decode(video=0)).to_ndarray()[SIZE // 2, SIZE // 2]
    # BT.601 would give 85.
    assert abs(int(luma) - 73) <= 1


@pytest.mark.parametrize("fps", [Fraction(12), Fraction(24), Fraction(30000, 1001), Fraction(25, 2)])
def test_frame_n_is_shown_at_n_over_fps(tmp_path: Path, fps: Fraction) -> None:
    frames = flashing()
    expected = write_picture(tmp_path / "p.mp4", frames, fps)
    check_file(tmp_path / "p.mp4", expected)
    decoded, times = read_picture(tmp_path / "p.mp4")
    assert len(times) == len(frames)
    np.testing.assert_allclose(times, [float(n / fps) for n in range(24)], atol=1e-9)
    np.testing.assert_array_equal(decoded.mean(axis=(1, 2, 3)) > 127, frames.mean(axis=(1, 2, 3)) > 127)


def test_one_frame_is_a_picture_too(tmp_path: Path) -> None:
    expected = write_picture(tmp_path / "p.mp4", coloured(1))
    check_file(tmp_path / "p.mp4", expected)


def test_key_frames_every_two_seconds(tmp_path: Path) -> None:
    write_picture(tmp_path / "p.mp4", flashing(60))
    with av.open(str(tmp_path / "p.mp4")) as container:
        keys = [
            (packet.pts or 0) * packet.time_base
            for packet in container.demux(video=0)
            if packet.is_keyframe and packet.size
        ]
    assert keys == [0, 2, 4]


def test_same_frames_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_picture(tmp_path / name, coloured())
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
