"""A thread that lets go of its OpenMP threads."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from libs.families.resting import _pause, rest

pytestmark = pytest.mark.skipif(
    _pause() is None or not Path("/proc/self/task").exists() or len(os.sched_getaffinity(0)) < 2,
    reason="another OpenMP than GNU's, another system than Linux, or one core",
)


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_they_end_and_new_ones_compute_the_same() -> None:
    counts, sums = [], []

    def compute() -> None:
        torch.set_num_threads(2)
        counts.append(threads())
        values = torch.arange(4_000_000, dtype=torch.float64)
        for _ in range(2):
            sums.append(float((values * 2).sum()))
            counts.append(threads())
            rest()
        deadline = threading.Event()
        for _ in range(100):
            if threads() <= counts[0]:
                break
            deadline.wait(0.02)
        counts.append(threads())

    before = torch.get_num_threads()
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    assert counts[1] > counts[0] == counts[-1]
    assert sums[0] == sums[1] == 3_999_999 * 4_000_000


def test_a_thread_that_has_none_may_rest() -> None:
    thread = threading.Thread(target=rest)
    thread.start()
    thread.join()
