from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from services.audio.flac import write_flac


def _read(path: Path) -> np.ndarray:
    """Samples (2, N) as the integers that the file holds, in the upper bits of 32."""
    with av.open(str(path)) as container:
        blocks = [frame.to_ndarray().reshape(-1, 2).T for frame in container.decode(audio=0)]
    return np.concatenate(blocks, axis=1)


def test_24_bits_come_back(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, (2, 100_001)).astype(np.float32)
    write_flac(tmp_path / "s.flac", sound)
    stored = _read(tmp_path / "s.flac")
    assert stored.shape == sound.shape
    assert not (stored & 0xFF).any()
    np.testing.assert_allclose(stored / 2**31, sound, atol=1.3e-7)
    # STREAMINFO, RFC 9639 section 8.2: rate 20 bits, channels - 1 in 3, bits - 1 in 5, samples in 36.
    info = int.from_bytes((tmp_path / "s.flac").read_bytes()[18:26])
    assert (info >> 44, (info >> 41 & 7) + 1, (info >> 36 & 31) + 1, info & (1 << 36) - 1) == (48_000, 2, 24, 100_001)


def test_full_scale_does_not_wrap(tmp_path: Path) -> None:
    write_flac(tmp_path / "s.flac", np.tile(np.array([[1.0], [-1.0]], np.float32), (1, 1000)))
    stored = _read(tmp_path / "s.flac")
    assert (stored[0] > 0).all()
    assert (stored[1] < 0).all()


def test_same_sound_same_bytes(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, (2, 9000)).astype(np.float32)
    for name in ("a", "b"):
        write_flac(tmp_path / name, sound)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
