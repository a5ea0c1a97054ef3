from __future__ import annotations

import math

import numpy as np
import pytest

from libs.errors import Internal
from services.audio.measure import CEILING_DBFS, SILENCE_DBFS, check, limit, measure

RATE = 48_000


def _tone(level: float) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def test_a_tone_measures_what_it_is() -> None:
    measures = measure(np.stack([_tone(0.5), _tone(0.5)]), RATE)
    assert measures.duration_seconds == 1
    assert measures.peak_dbfs == pytest.approx(20 * math.log10(0.5), abs=0.01)
    assert measures.rms_dbfs == pytest.approx(measures.peak_dbfs - 3.01, abs=0.01)
    assert measures.balance == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("left", "right", "balance"), [(1, 0, -1), (0, 1, 1), (1, 2, 0.6)])
def test_balance_is_about_energy(left: float, right: float, balance: float) -> None:
    measures = measure(np.stack([left * _tone(0.3), right * _tone(0.3)]).astype(np.float32), RATE)
    assert measures.balance == pytest.approx(balance, abs=1e-6)


def test_silence_measures_minus_200() -> None:
    measures = measure(np.zeros((2, 100), np.float32), RATE)
    assert (measures.rms_dbfs, measures.peak_dbfs, measures.balance) == (SILENCE_DBFS, SILENCE_DBFS, 0)


@pytest.mark.parametrize(
    ("sound", "silent", "name"),
    [
        (np.zeros((2, 99), np.float32), False, "shape"),
        (np.zeros((1, 100), np.float32), False, "shape"),
        (np.full((2, 100), np.nan, np.float32), False, "finite"),
        (np.full((2, 100), np.inf, np.float32), False, "finite"),
        (np.full((2, 100), 1e-6, np.float32), True, "silence"),
    ],
)
def test_wrong_sound_is_refused_by_name(sound: np.ndarray, silent: bool, name: str) -> None:
    with pytest.raises(Internal) as caught:
        check(sound, 100, silent=silent)
    assert caught.value.reason == "SOUND_GATE_FAILED"
    assert caught.value.metadata == {"check": name}


def test_right_sound_passes() -> None:
    check(np.zeros((2, 100), np.float32), 100, silent=True)
    check(np.full((2, 100), 0.1, np.float32), 100, silent=False)


def test_loud_sound_is_turned_down_as_a_whole() -> None:
    sound = np.stack([_tone(1.5), _tone(0.3)])
    limited, gain_db = limit(sound)
    assert measure(limited, RATE).peak_dbfs == pytest.approx(CEILING_DBFS, abs=0.001)
    assert gain_db == pytest.approx(-20 * math.log10(1.5) - 1, abs=0.01)
    np.testing.assert_allclose(limited[1] / limited[0].max(), sound[1] / sound[0].max(), rtol=1e-5)


def test_quiet_sound_is_left_alone() -> None:
    sound = np.stack([_tone(0.8), _tone(0.1)])
    limited, gain_db = limit(sound)
    assert gain_db == 0
    np.testing.assert_array_equal(limited, sound)
