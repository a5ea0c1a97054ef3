"""The gate: no file leaves this service that is not what was promised.

Each check is a row of a table: its name, and a function from facts and expectation to what is wrong (None: nothing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av

from libs.errors import Internal
from services.muxer.facts import FileFacts, SoundFacts, read_facts

__all__ = ["CHECKS", "SAMPLE_RATE", "Expected", "check_facts", "check_file"]

SAMPLE_RATE = 48_000
_START_TOLERANCE = Fraction(1, 1000)
_AAC_FRAME_SAMPLES = 1024
_BT709_LIMITED = (1, 1, 1, 1)


@dataclass(frozen=True)
class Expected:
    """Pixels, frames, frames a second; ``sound_samples`` a channel, or None for a silent picture."""

    width: int
    height: int
    num_frames: int
    fps: Fraction
    sound_samples: int | None

    @property
    def duration(self) -> Fraction:
        """Seconds of picture."""
        return self.num_frames / self.fps


def check_file(path: Path, expected: Expected) -> None:
    """Open and decode the file at ``path``; raises Internal FILE_GATE_FAILED with ``check`` naming what failed."""
    try:
        facts = read_facts(path)
    except (av.FFmpegError, LookupError) as error:
        raise _failed("decodes", str(error)) from error
    check_facts(facts, expected)


def check_facts(facts: FileFacts, expected: Expected) -> None:
    """Raises Internal FILE_GATE_FAILED for the first check that fails."""
    checks = _PICTURE_CHECKS if expected.sound_samples is None else _PICTURE_CHECKS | _SOUND_CHECKS
    for name, check in checks.items():
        if wrong := check(facts, expected):
            raise _failed(name, wrong)


def _failed(check: str, wrong: str) -> Internal:
    return Internal(f"the finished file failed check {check!r}: {wrong}", reason="FILE_GATE_FAILED", check=check)


def _differs(what: object, wanted: object) -> str | None:
    return None if what == wanted else f"{what}, not {wanted}"


def _streams(facts: FileFacts, expected: Expected) -> str | None:
    return _differs(facts.streams, ("video",) if expected.sound_samples is None else ("video", "audio"))


def _picture_codec(facts: FileFacts, _expected: Expected) -> str | None:
    picture = facts.picture
    return _differs((picture.codec, picture.profile, picture.pixel_format), ("h264", "High", "yuv420p"))


def _picture_size(facts: FileFacts, expected: Expected) -> str | None:
    return _differs((facts.picture.width, facts.picture.height), (expected.width, expected.height))


def _picture_colour(facts: FileFacts, _expected: Expected) -> str | None:
    return _differs(facts.picture.colour, _BT709_LIMITED)


def _frame_count(facts: FileFacts, expected: Expected) -> str | None:
    return _differs(len(facts.picture.times), expected.num_frames)


def _frame_rate(facts: FileFacts, expected: Expected) -> str | None:
    return _differs(facts.picture.rate, expected.fps)


def _frame_times(facts: FileFacts, expected: Expected) -> str | None:
    """Constant rate: frame n at n / fps after the first, to a thousandth of a frame."""
    for index, time in enumerate(facts.picture.times):
        if abs((time - facts.picture.times[0]) * expected.fps - index) > _START_TOLERANCE:
            return f"frame {index} at {float(time):.6f} s"
    return None


def _picture_start(facts: FileFacts, _expected: Expected) -> str | None:
    return _late(facts.picture.times[0])


def _picture_end(facts: FileFacts, expected: Expected) -> str | None:
    return _more_than_a_frame_apart(facts.picture.duration, expected.duration, expected)


def _fast_start(facts: FileFacts, _expected: Expected) -> str | None:
    boxes = facts.boxes
    if "moov" in boxes and "mdat" in boxes and boxes.index("moov") < boxes.index("mdat"):
        return None
    return f"boxes are {', '.join(boxes)}; moov must come before mdat"


def _sound(facts: FileFacts) -> SoundFacts:
    assert facts.sound is not None  # the check of streams comes first
    return facts.sound


def _sound_codec(facts: FileFacts, _expected: Expected) -> str | None:
    sound = _sound(facts)
    return _differs((sound.codec, sound.profile, sound.rate, sound.channels), ("aac", "LC", SAMPLE_RATE, 2))


def _sound_start(facts: FileFacts, _expected: Expected) -> str | None:
    sound = _sound(facts)
    return _late(sound.times[0]) if sound.times else "no sound could be decoded"


def _sound_times(facts: FileFacts, _expected: Expected) -> str | None:
    backward = [later for earlier, later in pairwise(_sound(facts).times) if later <= earlier]
    return f"time runs backward at {float(backward[0]):.6f} s" if backward else None


def _sound_end(facts: FileFacts, expected: Expected) -> str | None:
    return _more_than_a_frame_apart(_sound(facts).duration, facts.picture.duration, expected)


def _sound_samples(facts: FileFacts, expected: Expected) -> str | None:
    """AAC decodes to whole frames of 1024 samples, so up to one more than was put in."""
    surplus = _sound(facts).samples - (expected.sound_samples or 0)
    return None if 0 <= surplus < _AAC_FRAME_SAMPLES else f"{surplus} samples more than were put in"


def _sound_finite(facts: FileFacts, _expected: Expected) -> str | None:
    return None if _sound(facts).finite else "decoded samples are not finite"


def _late(start: Fraction) -> str | None:
    return None if abs(start) <= _START_TOLERANCE else f"starts at {float(start):.6f} s, not 0"


def _more_than_a_frame_apart(one: Fraction, other: Fraction, expected: Expected) -> str | None:
    return None if abs(one - other) * expected.fps <= 1 else f"{float(one):.6f} s against {float(other):.6f} s"


_Check = Callable[[FileFacts, Expected], str | None]

_PICTURE_CHECKS: dict[str, _Check] = {
    "fast_start": _fast_start,
    "streams": _streams,
    "picture_codec": _picture_codec,
    "picture_size": _picture_size,
    "picture_colour": _picture_colour,
    "frame_count": _frame_count,
    "frame_rate": _frame_rate,
    "frame_times": _frame_times,
    "picture_start": _picture_start,
    "picture_end": _picture_end,
}

_SOUND_CHECKS: dict[str, _Check] = {
    "sound_codec": _sound_codec,
    "sound_start": _sound_start,
    "sound_times": _sound_times,
    "sound_end": _sound_end,
    "sound_samples": _sound_samples,
    "sound_finite": _sound_finite,
}

CHECKS = ("decodes", *_PICTURE_CHECKS, *_SOUND_CHECKS)
"""All names that a failure may have."""
