"""How the client waits: for pods that fail for long, and for an answer that comes as it looks away."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np

from libs.triton import Call, TritonOptions
from libs.triton.client import _watched
from libs.triton.pods import LONGEST_REST_SECONDS, Pod


async def test_a_pod_that_fails_all_night_rests_no_longer_than_the_longest_rest() -> None:
    pod = Pod("127.0.0.1:1", TritonOptions())
    try:
        for _ in range(2000):
            pod.rest(0.0)
        assert LONGEST_REST_SECONDS / 2 <= pod.rests_until <= LONGEST_REST_SECONDS
    finally:
        await pod.close()


class AsItLooksAway(Future[dict[str, Any]]):
    """Comes to its result in the moment after a wait for it was given up."""

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        try:
            return super().result(timeout)
        except TimeoutError:
            self.come()
            raise

    def come(self) -> None:
        if not self.done():
            self.set_result({"same": np.zeros(1)})


def test_an_answer_that_comes_as_it_looks_away_is_no_timeout() -> None:
    running = AsItLooksAway()
    assert "same" in _watched(running, Call(running.come))
