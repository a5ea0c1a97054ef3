"""When a checkpoint is due."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from libs.artifacts import AttemptPrefix, MemoryStore, Ref
from libs.families import Step
from services.denoiser.checkpoints import CheckpointPolicy, Keeper
from services.denoiser.metrics import DenoiserMetrics
from tests.support.waiting import wait_until

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
                writer.submit(lambda: None).result()  # the writer is done
    return kept


def test_every_so_many_steps() -> None:
    assert steps_kept(CheckpointPolicy(10, 0, inf)) == [10, 20, 30]


def test_or_every_so_many_seconds() -> None:
    began = time.monotonic()
    kept = steps_kept(CheckpointPolicy(0, 0.2, 1.0), step_seconds=0.01)
    assert 1 <= len(kept) <= (time.monotonic() - began) / 0.2


def test_never_when_both_are_off_until_the_process_is_to_end() -> None:
    policy = CheckpointPolicy(0, 0, 1.0)
    assert steps_kept(policy) == []
    assert steps_kept(policy, hurry=35) == [35, 36, 37, 38, 39]


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_writing_takes_no_more_than_its_share(share: float) -> None:
    """A write of 40 ms, due after every step of 20 ms."""
    began = time.monotonic()
    kept = steps_kept(CheckpointPolicy(1, 0, share), step_seconds=0.02, write_seconds=0.04)
    assert 1 <= len(kept) <= 1 + share * (time.monotonic() - began) / 0.04


def test_the_loop_does_not_wait_for_the_store() -> None:
    began = time.monotonic()
    kept = steps_kept(CheckpointPolicy(1, 0, 1.0), write_seconds=1.0)
    assert kept == []
    assert time.monotonic() - began < 2.0


def one(index: int) -> Step:
    return Step(index, TOTAL, 0.0, None, lambda: {"latents/float32": np.zeros(3)})


def test_one_that_waits_is_kept_once_when_the_process_is_told_to_end() -> None:
    """Others go first: its next step may never come."""
    hurrying, metrics = threading.Event(), DenoiserMetrics(CollectorRegistry())
    prefix = AttemptPrefix("acme", "v1", "denoise", "a1")
    with ThreadPoolExecutor(1) as writer:
        policy = CheckpointPolicy(0, 0, 1.0)
        keeper = Keeper(MemoryStore("keeper"), metrics, policy, writer, hurrying, prefix, "f" * 64)

        def look() -> int | None:
            written = keeper.while_waiting(one(7))
            writer.submit(lambda: None).result()  # the writer is done
            return written and written.step

        assert keeper.after(one(7)) is None
        assert [look() for _ in range(2)] == [None, None]
        hurrying.set()
        assert [look() for _ in range(4)] == [None, 7, None, None]


def test_one_that_waits_for_long_is_kept() -> None:
    metrics, prefix = DenoiserMetrics(CollectorRegistry()), AttemptPrefix("acme", "v1", "denoise", "a1")
    with ThreadPoolExecutor(1) as writer:
        policy = CheckpointPolicy(0, 0.2, 1.0)
        keeper = Keeper(MemoryStore("keeper"), metrics, policy, writer, threading.Event(), prefix, "f" * 64)
        keeper.after(one(7))
        wait_until(lambda: (written := keeper.while_waiting(one(7))) and written.step == 7)


def test_a_write_that_fails_as_no_store_does_costs_no_video() -> None:
    class Odd(MemoryStore):
        def put(self, *_: Any) -> Ref:
            raise MemoryError

    registry, prefix = CollectorRegistry(), AttemptPrefix("acme", "v1", "denoise", "a1")
    with ThreadPoolExecutor(1) as writer:
        policy = CheckpointPolicy(1, 0, 1.0)
        keeper = Keeper(Odd("odd"), DenoiserMetrics(registry), policy, writer, threading.Event(), prefix, "f" * 64)
        keeper.after(one(1))
        writer.submit(lambda: None).result()
        assert keeper.after(one(2)) is None
    assert registry.get_sample_value("soundstage_denoiser_checkpoints_total", {"outcome": "failed"}) == 1


def test_the_age_of_the_newest_checkpoint_is_told_while_the_loop_runs() -> None:
    """It grows until one is written, and not while none steps; nobody worries where none are to be kept."""
    registry = CollectorRegistry()
    metrics, prefix = DenoiserMetrics(registry), AttemptPrefix("acme", "v1", "denoise", "a1")

    def age() -> float:
        seconds = registry.get_sample_value("soundstage_denoiser_oldest_checkpoint_seconds")
        assert seconds is not None
        return seconds

    def keeper(policy: CheckpointPolicy, writer: ThreadPoolExecutor) -> Keeper:
        return Keeper(MemoryStore("keeper"), metrics, policy, writer, threading.Event(), prefix, "f" * 64)

    with ThreadPoolExecutor(1) as writer:
        keeps, never = (keeper(CheckpointPolicy(steps, 0, 1.0), writer) for steps in (2, 0))
        assert age() == 0
        with keeps.at_work(), never.at_work():
            time.sleep(0.2)
            for index in (1, 2):
                assert age() >= 0.2
                before_copying = time.monotonic()
                keeps.after(Step(index, TOTAL, 0.0, None, lambda: {"latents/float32": np.zeros(3)}))
            writer.submit(lambda: None).result()
            assert age() <= time.monotonic() - before_copying
        with never.at_work():
            time.sleep(0.01)
            assert age() == 0
    assert age() == 0
