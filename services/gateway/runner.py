"""The port to what runs workflows: starts a video's work, asks it to stop, says whether it goes on. Real: Temporal."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import NoReturn, Protocol

from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import Priority as TemporalPriority
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from libs.errors import Unavailable
from libs.serving import Reloading, TlsFiles, traceparent
from services.gateway.video import Priority, Video, VideoKey
from services.gateway.workflow import MakeVideo, VideoWork

logger = logging.getLogger(__name__)

CALL_TIMEOUT = timedelta(seconds=5)
WORKFLOW_TASK_SECONDS = 10.0
"""Temporal's own default, at most: after this long a step of a workflow is given to another worker."""
CONNECT_PAUSE_SECONDS = 0.3
CERTIFICATES_SECONDS = 2.0
"""How often the TLS files are looked at. A connection keeps its certificate until another takes its place."""
PRIORITY_KEY = {Priority.INTERACTIVE: 1, Priority.STANDARD: 3, Priority.BATCH: 5}
"""Temporal serves lower keys first; 3 is its own default."""


class Work(StrEnum):
    """Whether a video's workflow exists and goes on."""

    MISSING = "MISSING"
    RUNNING = "RUNNING"
    ENDED = "ENDED"


class Runner(Protocol):
    """All methods raise Unavailable, reason TEMPORAL_UNAVAILABLE, when the engine is away."""

    async def start(self, video: Video) -> None:
        """Starts the video's work. If it was started before, nothing happens."""

    async def admit(self, key: VideoKey) -> None:
        """Tells the video's work that it may begin. Work that has ended, or is not there yet, needs no word."""

    async def cancel(self, key: VideoKey) -> Work:
        """Asks the work to stop; returns how it stood before. Does not wait."""

    async def state(self, key: VideoKey) -> Work: ...


class TemporalRunner:
    """One workflow a video; the workflow's id is the video's."""

    def __init__(
        self,
        address: str,
        namespace: str,
        task_queue: str,
        worker_silence_seconds: float = 20.0,
        tls: TlsFiles | None = None,
    ) -> None:
        self._address, self._namespace, self._task_queue = address, namespace, task_queue
        self._worker_silence_seconds, self._tls = worker_silence_seconds, tls
        self._reloading: Reloading[TLSConfig] | None = None
        self._client: Client | None = None

    async def connect(self, timeout_seconds: float) -> Client:
        """Connects, trying again until the deadline. Raises Unavailable when it has passed, OSError for TLS files."""
        if self._tls is not None and self._reloading is None:
            self._reloading = await asyncio.to_thread(Reloading, self._tls, _tls_config)
        if self._client is None:
            self._client = await self._connection(timeout_seconds)
        return self._client

    async def renew(self, use: Callable[[Client], None]) -> NoReturn:
        """Connects anew whenever the TLS files have changed, and tells `use`; until cancelled.

        The earlier connection stays in use until Temporal has taken the new certificate.
        """
        due = False
        while True:
            await asyncio.sleep(CERTIFICATES_SECONDS)
            due = (self._reloading is not None and await asyncio.to_thread(self._reloading.changed)) or due
            if due:
                try:
                    self._client = await self._connection(CALL_TIMEOUT.total_seconds())
                except Unavailable as error:
                    logger.warning("%s; the earlier connection stays in use", error)
                else:
                    due = False
                    use(self._client)

    async def _connection(self, timeout_seconds: float) -> Client:
        deadline = time.monotonic() + timeout_seconds
        tls = False if self._reloading is None else self._reloading.value
        while True:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + timeout_seconds):
                    return await Client.connect(self._address, namespace=self._namespace, tls=tls)
            except (RuntimeError, RPCError, TimeoutError) as error:
                if time.monotonic() >= deadline:
                    raise _unavailable(f"Temporal does not answer at {self._address}: {error}") from error
                logger.info("waiting for Temporal at %s", self._address)
                await asyncio.sleep(CONNECT_PAUSE_SECONDS * random.uniform(0.7, 1.3))

    async def start(self, video: Video) -> None:
        try:
            await self._connected.start_workflow(
                MakeVideo.run,
                VideoWork(video.key.tenant, video.key.video_id, self._worker_silence_seconds, traceparent()),
                id=video.key.video_id,
                task_queue=self._task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                task_timeout=timedelta(seconds=min(self._worker_silence_seconds, WORKFLOW_TASK_SECONDS)),
                priority=TemporalPriority(priority_key=PRIORITY_KEY[video.priority]),
                rpc_timeout=CALL_TIMEOUT,
            )
        except WorkflowAlreadyStartedError:  # it has run and ended already
            return
        except (RPCError, RuntimeError) as error:
            raise _unavailable(f"the video's work could not be started: {error}") from error

    async def admit(self, key: VideoKey) -> None:
        try:
            await self._connected.get_workflow_handle(key.video_id).signal(MakeVideo.admit, rpc_timeout=CALL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise _unavailable(f"the video's work could not be told to begin: {error}") from error

    async def cancel(self, key: VideoKey) -> Work:
        try:
            await self._connected.get_workflow_handle(key.video_id).cancel(rpc_timeout=CALL_TIMEOUT)
        except RPCError as error:
            if _is_missing(error):  # says Temporal of one that has ended, too
                return await self.state(key)
            raise _unavailable(f"the video's work could not be told to stop: {error}") from error
        return Work.RUNNING

    async def state(self, key: VideoKey) -> Work:
        try:
            found = await self._connected.get_workflow_handle(key.video_id).describe(rpc_timeout=CALL_TIMEOUT)
        except RPCError as error:
            if _is_missing(error):
                return Work.MISSING
            raise _unavailable(f"the video's work could not be looked up: {error}") from error
        return Work.RUNNING if found.status is WorkflowExecutionStatus.RUNNING else Work.ENDED

    @property
    def _connected(self) -> Client:
        if self._client is None:
            raise _unavailable("not connected to Temporal yet")
        return self._client


def _tls_config(files: TlsFiles) -> TLSConfig:
    ca, cert, key = (path.read_bytes() if path else None for path in (files.ca, files.cert, files.key))
    return TLSConfig(server_root_ca_cert=ca, client_cert=cert, client_private_key=key)


def _is_missing(error: RPCError) -> bool:
    """Of a namespace that is not there (yet), Temporal says NOT_FOUND, too: nothing is known of the workflow then."""
    no_namespace = any(detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in error.grpc_status.details)
    return error.status is RPCStatusCode.NOT_FOUND and not no_namespace


def _unavailable(message: str) -> Unavailable:
    return Unavailable(message, reason="TEMPORAL_UNAVAILABLE")
