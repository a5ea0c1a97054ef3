"""Files of the same size and other weights have other digests, also those too large to read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from services.denoiser.fingerprint import BLOCK, BLOCKS, digest_of_file

WEIGHTS = BLOCK * BLOCKS
"""In numbers of 4 bytes: four times what is looked at."""


def weights(path: Path, seed: int) -> Path:
    tensors = {"a": np.random.default_rng(seed).random(WEIGHTS, np.float32), "b": np.ones(7, np.float32)}
    save_file(tensors, path)
    return path


def test_retrained_weights_of_the_same_size_are_others(tmp_path: Path) -> None:
    path = weights(tmp_path / "model.safetensors", 1)
    first, size = digest_of_file(path), path.stat().st_size
    weights(path, 2)
    assert path.stat().st_size == size
    assert digest_of_file(path) != first


def test_the_same_weights_elsewhere_are_the_same(tmp_path: Path) -> None:
    """Another node fetched them at another time."""
    path = weights(tmp_path / "model.safetensors", 1)
    (tmp_path / "other").mkdir()
    copy = Path(shutil.copyfile(path, tmp_path / "other" / "model.safetensors"))
    os.utime(copy, (1, 1))
    assert digest_of_file(copy) == digest_of_file(path)


@pytest.mark.parametrize("name", ["first", "last"])
def test_one_byte_at_either_end_counts(tmp_path: Path, name: str) -> None:
    path = weights(tmp_path / "model.safetensors", 1)
    before = digest_of_file(path)
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    data[begin if name == "first" else -1] ^= 1
    path.write_bytes(data)
    assert digest_of_file(path) != before


def test_the_header_counts(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_file({"a": np.zeros(4, np.float32)}, one)
    save_file({"b": np.zeros(4, np.float32)}, two)
    assert digest_of_file(one) != digest_of_file(two)


def test_a_small_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"shift": 3.0}')
    before = digest_of_file(path)
    path.write_text('{"shift": 5.0}')
    assert digest_of_file(path) != before


def test_a_file_of_28_gigabytes_is_looked_at_in_no_time(tmp_path: Path) -> None:
    """A sparse one: reading it all would take longer than the test may."""
    path = tmp_path / "model.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    os.truncate(path, 28_000_000_000)
    before = digest_of_file(path)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert digest_of_file(path) != before
