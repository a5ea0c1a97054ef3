"""Several pods as one: turns, deadlines, and another pod when one fails."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from libs.triton.calling import Call, current_call
from libs.triton.failures import Failure, failure_of
from libs.triton.pods import Expected, More, Pod, Request, TritonOptions

__all__ = ["Triton"]

LOOK_SECONDS = 0.1
"""How often a thread that waits looks whether its work was cancelled."""
PAUSE_SECONDS = 0.5
DEFAULTS = TritonOptions()
_log = logging.getLogger(__name__)


class Triton:
    """``async with Triton(["127.0.0.1:8001"]) as triton``. The connections live in that loop; threads call `infer`.

    An address is host:port, of one pod or of a name that stands for several. Connecting begins with the first call.
    """

    def __init__(self, addresses: Sequence[str], options: TritonOptions = DEFAULTS) -> None:
        if not addresses:
            raise ValueError("Triton needs at least one address, as host:port")
        self._addresses, self._options = tuple(addresses), options

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._pods = [Pod(address, self._options) for address in self._addresses]
        self._turns = itertools.cycle(range(len(self._pods)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pod in self._pods:
            await pod.close()

    def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Expected, more: More | None = None
    ) -> dict[str, NDArray[Any]]:
        """From any thread but the loop's. The work around it (`calling`) may abandon it, on the server too.

        ``more``: further inputs, sent to a pod whose model asks for them, by a second call; made in a thread.

        Raises Unavailable TRITON_UNAVAILABLE, FailedPrecondition TRITON_MODEL_MISSING, TRITON_REFUSED,
        TRITON_INPUT_UNKNOWN or what the model itself answers, Internal TRITON_FAILED, each after at most ``attempts``
        calls; FailedPrecondition TRITON_TOO_LARGE; and what ``raise_if_cancelled`` and ``more`` raise.
        """
        call = current_call()
        inference = self.infer_async(model, inputs, outputs, call.priority, more)
        return _watched(asyncio.run_coroutine_threadsafe(inference, self._loop), call)

    async def infer_async(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Expected,
        priority: int = 0,
        more: More | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The same in the loop; a cancelled task cancels the call on the server."""
        request = Request(model, inputs, outputs, priority, self._options.call_seconds, more)
        for attempt in itertools.count(1):
            pod = self._next_pod()
            try:
                result = await pod.infer(request)
            except InferenceServerException as error:
                failure = failure_of(error, pod.address, model)
                if attempt == self._options.attempts or not (failure.region_lost or failure.another_pod_may_do):
                    raise failure.to_error() from error
                await self._after(failure, pod)
            else:
                pod.succeeded()
                return result
        raise AssertionError("unreachable")

    async def _after(self, failure: Failure, pod: Pod) -> None:
        if failure.region_lost:
            pod.forget_memory()
            return
        _log.warning("Triton at %s failed %s: %s", pod.address, failure.model, failure.message)
        pod.rest(self._loop.time())
        if all(other.rests_until > self._loop.time() for other in self._pods):
            await asyncio.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))

    def _next_pod(self) -> Pod:
        """In turn, those that rest left out; when all do, the one whose rest ends first."""
        now = self._loop.time()
        for _ in self._pods:
            pod = self._pods[next(self._turns)]
            if pod.rests_until <= now:
                return pod
        return min(self._pods, key=lambda pod: pod.rests_until)


def _watched(running: Future[dict[str, NDArray[Any]]], call: Call) -> dict[str, NDArray[Any]]:
    while not wait([running], LOOK_SECONDS).done:
        try:
            call.raise_if_cancelled()
        except BaseException:
            running.cancel()
            raise
    return running.result()
