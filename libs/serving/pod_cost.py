"""Tells Kubernetes which pods have work, so that it takes idle ones first when there are to be fewer.

A ReplicaSet that shrinks takes the pods with the lowest ``controller.kubernetes.io/pod-deletion-cost`` first
(KEP-2255). The annotation is what a pod says of itself here: how many calls of stages it has at work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import urllib3

from libs.serving.stage import at_work

__all__ = ["telling_pod_cost"]

_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
_FILES = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SERVER = "https://kubernetes.default.svc"
_LOOK_SECONDS = 1.0
# Kubernetes asks not to be told of every change: between two videos a pod does not count as idle.
_FALL_SECONDS = 15.0
_TIMEOUT = urllib3.Timeout(5.0)
_LONGEST_PAUSE_SECONDS = 60.0
_MOST_DOUBLINGS = 6
_log = logging.getLogger(__name__)


@asynccontextmanager
async def telling_pod_cost(
    pod: str,
    *,
    load: Callable[[], int] = at_work,
    files: Path = _FILES,
    server: str = _SERVER,
    fall_seconds: float = _FALL_SECONDS,
) -> AsyncIterator[None]:
    """While it lasts, the annotation of ``pod`` follows ``load``: up within a second, down after ``fall_seconds``.

    ``files``: folder with ``token``, ``ca.crt`` and ``namespace``. An API server that does not answer, or refuses,
    costs a warning and is asked again, less and less often; work never waits for it. Without a ``pod`` nobody is told.
    """
    if not pod:
        yield
        return
    task = asyncio.create_task(_follow(pod, load, files, server, fall_seconds))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _follow(pod: str, load: Callable[[], int], files: Path, server: str, fall_seconds: float) -> None:
    told, failures, high = -1, 0, time.monotonic()
    while True:
        cost, now = load(), time.monotonic()
        high = now if cost >= told else high
        if cost > told or (cost < told and now - high >= fall_seconds):
            try:
                await asyncio.to_thread(_tell, pod, cost, files, server)
            except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
                failures += 1
                _log.warning("the pod's deletion cost was not told", extra={"pod": pod, "why": str(error)})
            else:
                told, failures, high = cost, 0, now
        await asyncio.sleep(_pause_seconds(failures) * random.uniform(0.8, 1.2))


def _pause_seconds(failures: int) -> float:
    """After so many in a row; of a day's failures 2 to their power would be no float any more."""
    return min(_LOOK_SECONDS * 2.0 ** min(failures, _MOST_DOUBLINGS), _LONGEST_PAUSE_SECONDS)


def _tell(pod: str, cost: int, files: Path, server: str) -> None:
    """Raises OSError, urllib3's HTTPError, or ValueError with what the API server said."""
    # The token is read anew each time: the kubelet replaces it.
    token, namespace = ((files / name).read_text().strip() for name in ("token", "namespace"))
    with urllib3.PoolManager(ca_certs=str(files / "ca.crt"), timeout=_TIMEOUT, retries=False) as pool:
        answer = pool.request(
            "PATCH",
            f"{server}/api/v1/namespaces/{namespace}/pods/{pod}",
            body=json.dumps({"metadata": {"annotations": {_ANNOTATION: str(cost)}}}),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"},
        )
    if answer.status != 200:
        raise ValueError(f"{answer.status} {answer.data.decode(errors='replace')[:300]}")
