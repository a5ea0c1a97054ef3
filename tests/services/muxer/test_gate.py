"""Every check of the gate, each with facts that only it refuses, and with real files that are wrong."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from libs.errors import Internal
from services.muxer import gate
from services.muxer.facts import FileFacts, PictureFacts, SoundFacts
from services.muxer.gate import Expected, check_facts, check_file
from tests.services.muxer.clips import FPS, SIZE, flashing, write_carelessly, write_picture

_EXPECTED = Expected(SIZE, SIZE, 24, FPS, sound_samples=96_000)
_PICTURE = PictureFacts(
    "h264", "High", "yuv420p", SIZE, SIZE, (1, 1, 1, 1), FPS, Fraction(2), tuple(n / FPS for n in range(24))
)
_SOUND = SoundFacts(
    "aac", "LC", 48_000, 2, Fraction(2), tuple(Fraction(1024 * n, 48_000) for n in range(94)), 94 * 1024, finite=True
)
_FACTS = FileFacts(("ftyp", "moov", "free", "mdat"), ("video", "audio"), _PICTURE, _SOUND)


def _late(times: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    return tuple(time + Fraction(2, 1000) for time in times)


_WRONG: list[tuple[str, str, dict[str, Any]]] = [
    ("fast_start", "file", {"boxes": ("ftyp", "free", "mdat", "moov")}),
    ("streams", "file", {"streams": ("video",), "sound": None}),
    ("streams", "file", {"streams": ("video", "audio", "data")}),
    ("picture_codec", "picture", {"codec": "hevc"}),
    ("picture_codec", "picture", {"profile": "Main"}),
    ("picture_codec", "picture", {"pixel_format": "yuv444p"}),
    ("picture_size", "picture", {"width": 62}),
    ("picture_colour", "picture", {"colour": (5, 1, 1, 1)}),
    ("picture_colour", "picture", {"colour": (1, 1, 1, 2)}),
    ("frame_count", "picture", {"times": _PICTURE.times[:-1]}),
    ("frame_rate", "picture", {"rate": Fraction(24)}),
    ("frame_times", "picture", {"times": (*_PICTURE.times[:22], _PICTURE.times[23], _PICTURE.times[22])}),
    ("frame_times", "picture", {"times": tuple(time * Fraction(101, 100) for time in _PICTURE.times)}),
    ("picture_start", "picture", {"times": _late(_PICTURE.times)}),
    ("picture_end", "picture", {"duration": Fraction(22, 10)}),
    ("sound_codec", "sound", {"codec": "mp3"}),
    ("sound_codec", "sound", {"profile": "HE-AAC"}),
    ("sound_codec", "sound", {"rate": 44_100}),
    ("sound_codec", "sound", {"channels": 1}),
    ("sound_start", "sound", {"times": _late(_SOUND.times)}),
    ("sound_start", "sound", {"times": ()}),
    ("sound_times", "sound", {"times": (_SOUND.times[0], _SOUND.times[2], _SOUND.times[1])}),
    ("sound_end", "sound", {"duration": Fraction(18, 10)}),
    ("sound_samples", "sound", {"samples": 90 * 1024}),
    ("sound_samples", "sound", {"samples": 96 * 1024}),
    ("sound_finite", "sound", {"finite": False}),
]


def test_right_facts_pass() -> None:
    check_facts(_FACTS, _EXPECTED)
    check_facts(replace(_FACTS, streams=("video",), sound=None), replace(_EXPECTED, sound_samples=None))


@pytest.mark.parametrize(("check", "part", "changes"), _WRONG)
def test_wrong_fact_is_refused_by_name(check: str, part: str, changes: dict[str, Any]) -> None:
    facts = (
        replace(_FACTS, **changes)
        if part == "file"
        else replace(_FACTS, **{part: replace(getattr(_FACTS, part), **changes)})
    )
    with pytest.raises(Internal) as caught:
        check_facts(facts, _EXPECTED)
    assert caught.value.reason == "FILE_GATE_FAILED"
    assert caught.value.metadata == {"check": check}


def test_every_check_is_tried_here() -> None:
    assert {check for check, _, _ in _WRONG} == {*gate._PICTURE_CHECKS, *gate._SOUND_CHECKS}


def test_sound_where_none_belongs_is_refused() -> None:
    with pytest.raises(Internal, match="streams"):
        check_facts(_FACTS, replace(_EXPECTED, sound_samples=None))


@pytest.mark.parametrize(
    ("tagged", "fast_start", "check"), [(False, True, "picture_colour"), (True, False, "fast_start")]
)
def test_careless_files_are_refused(tmp_path: Path, tagged: bool, fast_start: bool, check: str) -> None:
    write_carelessly(tmp_path / "p.mp4", tagged=tagged, fast_start=fast_start)
    with pytest.raises(Internal) as caught:
        check_file(tmp_path / "p.mp4", replace(_EXPECTED, sound_samples=None))
    assert caught.value.metadata == {"check": check}


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    expected = write_picture(tmp_path / "p.mp4", flashing())
    data = (tmp_path / "p.mp4").read_bytes()
    (tmp_path / "p.mp4").write_bytes(data[:-200])
    with pytest.raises(Internal) as caught:
        check_file(tmp_path / "p.mp4", expected)
    assert caught.value.reason == "FILE_GATE_FAILED"
