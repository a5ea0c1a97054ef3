from pathlib import Path

import numpy as np
from PIL import Image

from bench.gallery import MOST_BYTES, PROMPTS, WIDTH, Exhibit, draw, save, spectrogram
from training.look import Tile, contact_sheet, shown

RATE = 48_000


def tone(hertz: float) -> np.ndarray:
    wave = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)
    return np.stack([wave, wave]).astype(np.float32)


def test_spectrogram_has_high_tones_above_low_ones() -> None:
    rows = [int(spectrogram(tone(hertz), RATE, 40, 44).sum((1, 2), dtype=int).argmax()) for hertz in (100, 1000, 8000)]
    assert rows[0] > rows[1] > rows[2]


def test_spectrogram_of_silence_is_drawn() -> None:
    assert spectrogram(np.zeros((2, RATE), np.float32), RATE, 40, 44).shape == (44, 40, 3)


def test_sheet_of_six_noisy_videos_is_small_enough(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)
    sheet = draw([Exhibit(prompt, frames, tone(500), RATE) for prompt in PROMPTS])
    assert save(sheet, tmp_path / "docs" / "gallery.png") <= MOST_BYTES
    with Image.open(tmp_path / "docs" / "gallery.png") as picture:
        assert picture.width == WIDTH


def test_shown_frames_are_the_first_and_last_and_two_between() -> None:
    clip = np.arange(61, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 2, 2, 3), np.uint8)
    assert [int(frame[0, 0, 0]) for frame in shown(clip)] == [0, 20, 40, 60]


def test_contact_sheet_holds_the_frames() -> None:
    red = np.full((4, 8, 8, 3), (255, 0, 0), np.uint8)
    sheet = np.asarray(contact_sheet([Tile(red, "a long prompt " * 20, "fire")] * 3, columns=2, side=16))
    assert (sheet == (255, 0, 0)).all(-1).sum() == 3 * 4 * 16 * 16
