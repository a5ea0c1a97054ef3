"""When a checkpoint is due."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from libs.artifacts import AttemptPrefix, MemoryStore, Ref
from libs.families import Step
from services.denoiser.checkpoints import CheckpointPolicy, Keeper
from services.denoiser.metrics import DenoiserMetrics

TOTAL = 40


class SlowStore(MemoryStore):
    seconds = 0.0

    def put(self, key: str, data: bytes, media_type: str) -> Ref:
        time.sleep(self.seconds)
        return super().put(key, data, media_type)


def steps_kept(
    policy: CheckpointPolicy, *, step_seconds: float = 0.0, write_seconds: float = 0.0, hurry: int = TOTAL
) -> list[int]:
    """Of forty steps; ``hurry``: the step before which the process is told to end."""
    store, hurrying = SlowStore("keeper"), threading.Event()
    store.seconds = write_seconds
    kept: list[int] = []
    with ThreadPoolExecutor(1) as writer:
        prefix = AttemptPrefix("acme", "v1", "denoise", "a1")
        keeper = Keeper(store, DenoiserMetrics(CollectorRegistry()), policy, writer, hurrying, prefix, "f" * 64)
        for index in range(1, TOTAL + 1):
            time.sleep(step_seconds)
            if index == hurry:
                hurrying.set()
            written = keeper.after(Step(index, TOTAL, step_seconds, None, lambda: {"latents/float32": np.zeros(3)}))
            if written is not None:
                kept.append(written.step)
            if not write_seconds:
                time.sleep(0.005)  # for the writer
    return kept


def test_every_so_many_steps() -> None:
    assert steps_kept(CheckpointPolicy(10, 0, 1.0)) == [10, 20, 30]


def test_or_every_so_many_seconds() -> None:
    kept = steps_kept(CheckpointPolicy(0, 0.2, 1.0), step_seconds=0.01)
    assert 1 <= len(kept) <= 4


def test_never_when_both_are_off_until_the_process_is_to_end() -> None:
    policy = CheckpointPolicy(0, 0, 1.0)
    assert steps_kept(policy) == []
    assert steps_kept(policy, hurry=35) == [35, 36, 37, 38, 39]


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.5, 4, 10), (0.05, 1, 1)])
def test_writing_takes_no_more_than_its_share(share: float, fewest: int, most: int) -> None:
    """A write of 40 ms, due after every step of 20 ms: 800 ms of steps in all."""
    kept = steps_kept(CheckpointPolicy(1, 0, share), step_seconds=0.02, write_seconds=0.04)
    assert fewest <= len(kept) <= most


def test_the_loop_does_not_wait_for_the_store() -> None:
    began = time.monotonic()
    kept = steps_kept(CheckpointPolicy(1, 0, 1.0), write_seconds=1.0)
    assert kept == []
    assert time.monotonic() - began < 2.0
