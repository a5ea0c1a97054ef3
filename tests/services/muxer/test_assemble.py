from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from libs.errors import FailedPrecondition, Internal
from services.muxer.assemble import assemble, write_poster
from services.muxer.gate import check_file
from tests.services.muxer.clips import (
    FLASHES,
    FPS,
    RATE,
    clicking,
    coloured,
    flashing,
    packets,
    read_picture,
    read_sound,
    write_picture,
    write_sound,
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Paths of picture, sound and video; the first two are written."""
    picture, sound = tmp_path / "picture.mp4", tmp_path / "sound.flac"
    write_picture(picture, flashing())
    write_sound(sound, clicking())
    return picture, sound, tmp_path / "video.mp4"


def _lag_seconds(heard: np.ndarray, wanted: np.ndarray) -> float:
    """Seconds by which ``heard`` comes after ``wanted``, from the peak of their circular cross-correlation."""
    size = len(heard) + len(wanted)
    correlation = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(wanted, size)), size)
    lag = int(np.argmax(correlation))
    return (lag if lag < size // 2 else lag - size) / RATE


@pytest.mark.parametrize("fps", [Fraction(12), Fraction(30000, 1001)])
def test_clicks_are_heard_when_flashes_are_seen(tmp_path: Path, fps: Fraction) -> None:
    picture, sound, video = (tmp_path / name for name in ("p.mp4", "s.flac", "v.mp4"))
    write_picture(picture, flashing(), fps)
    write_sound(sound, clicking(fps))
    check_file(video, assemble(picture, sound, video, "t"))
    frames, times = read_picture(video)
    heard, begin = read_sound(video)
    seen = np.zeros(heard.shape[1], np.float32)
    bright = [time for frame, time in zip(frames, times, strict=True) if frame.mean() > 127]
    assert len(bright) == len(FLASHES)
    burst = np.abs(np.sin(2 * np.pi * 1000 * np.arange(240) / RATE))
    for time in bright:
        at = round(time * RATE)
        seen[at : at + 240] = burst
    assert begin == 0
    assert abs(_lag_seconds(np.abs(heard[0]), seen)) <= 0.001


def test_sound_is_neither_shifted_nor_changed(files: tuple[Path, Path, Path]) -> None:
    picture, sound, video = files
    assemble(picture, sound, video, "")
    heard, _ = read_sound(video)
    wanted = clicking()
    assert _lag_seconds(heard[0], wanted[0]) == 0
    energy = float((heard[:, : wanted.shape[1]] ** 2).sum() / (wanted**2).sum())
    assert 0.9 < energy < 1.1


def test_noise_up_to_the_last_sample_is_heard(tmp_path: Path) -> None:
    picture, sound, video = (tmp_path / name for name in ("p.mp4", "s.flac", "v.mp4"))
    write_picture(picture, flashing())
    noise = np.random.default_rng(1).normal(0, 0.1, (2, 2 * RATE)).astype(np.float32)
    write_sound(sound, noise)
    assemble(picture, sound, video, "")
    heard, _ = read_sound(video)
    for part in (slice(0, 480), slice(2 * RATE - 480, 2 * RATE)):
        assert heard[:, part].std() == pytest.approx(noise[:, part].std(), rel=0.4)


def test_picture_is_copied_packet_for_packet(files: tuple[Path, Path, Path]) -> None:
    picture, sound, video = files
    assemble(picture, sound, video, "")
    assert list(packets(video)) == list(packets(picture))


def test_streams_end_together(files: tuple[Path, Path, Path]) -> None:
    picture, sound, video = files
    assemble(picture, sound, video, "")
    with av.open(str(video)) as container:
        ends = [float((s.duration or 0) * (s.time_base or 0)) for s in container.streams]
    assert ends == [2, 2]


def test_title_is_in_the_metadata(files: tuple[Path, Path, Path]) -> None:
    picture, sound, video = files
    assemble(picture, sound, video, 'Höhenfeuer "am Strand"')
    with av.open(str(video)) as container:
        assert container.metadata["title"] == 'Höhenfeuer "am Strand"'


@pytest.mark.parametrize("samples", [2 * RATE - RATE // 12, 2 * RATE + 100, 1024])
def test_sound_of_another_length_is_refused(files: tuple[Path, Path, Path], samples: int) -> None:
    picture, sound, video = files
    write_sound(sound, np.full((2, samples), 0.1, np.float32))
    with pytest.raises(FailedPrecondition) as caught:
        assemble(picture, sound, video, "")
    assert caught.value.reason == "SOUND_LENGTH"
    assert caught.value.metadata["picture_seconds"] == "2.000000"


@pytest.mark.parametrize(("channels", "rate"), [(1, RATE), (2, 44_100)])
def test_sound_of_another_format_is_refused(files: tuple[Path, Path, Path], channels: int, rate: int) -> None:
    picture, sound, video = files
    write_sound(sound, np.zeros((channels, 2 * rate), np.float32), rate)
    with pytest.raises(FailedPrecondition, match="48000 Hz stereo") as caught:
        assemble(picture, sound, video, "")
    assert caught.value.reason == "SOUND_UNREADABLE"


@pytest.mark.parametrize(("which", "reason"), [(0, "PICTURE_UNREADABLE"), (1, "SOUND_UNREADABLE")])
def test_what_is_no_media_is_refused(files: tuple[Path, Path, Path], which: int, reason: str) -> None:
    files[which].write_bytes(b"not media at all" * 100)
    with pytest.raises(FailedPrecondition) as caught:
        assemble(*files, "")
    assert caught.value.reason == reason


def test_gate_refuses_the_file_when_a_frame_is_missing(files: tuple[Path, Path, Path]) -> None:
    expected = assemble(*files, "")
    with pytest.raises(Internal) as caught:
        check_file(files[2], replace(expected, num_frames=25))
    assert caught.value.reason == "FILE_GATE_FAILED"
    assert caught.value.metadata == {"check": "frame_count"}


def test_poster_is_the_frame_with_most_detail(tmp_path: Path) -> None:
    frames = flashing()
    frames[13] = coloured(1)[0]
    frames[13, ::8] = 255
    write_picture(tmp_path / "p.mp4", frames, FPS)
    assert write_poster(tmp_path / "p.mp4", tmp_path / "poster.jpg") == 13
    with Image.open(tmp_path / "poster.jpg") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(pixels[12, 16] - (200, 30, 30)).max() <= 24
