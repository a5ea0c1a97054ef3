"""Starts and stops a service: gRPC with health and reflection, metrics over HTTP, a clean end on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIServer

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import REGISTRY, CollectorRegistry, start_http_server

from libs.serving.admission import AdmissionInterceptor, Admit, PeerInterceptor
from libs.serving.interceptors import (
    ErrorInterceptor,
    MetricsInterceptor,
    ReadyInterceptor,
    RedMetrics,
    TracingInterceptor,
    ValidationInterceptor,
)
from libs.serving.settings import ServiceSettings
from libs.serving.stage import abandon_work, wait_until_idle
from libs.serving.tls import server_credentials

__all__ = ["Endpoint", "RunningServer", "running", "serve"]

_log = logging.getLogger(__name__)
_Hook = Callable[[], Awaitable[None]]
_ALL_SERVICES = ""
# From the end of the grace, when calls are cancelled, to the end of the step their work is in.
_UNWIND_SECONDS = 5.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class Endpoint:
    """One gRPC service: its full name, what answers, and the generated ``add_…Servicer_to_server``.

    ``admit`` says who calls, which the servicer asks of ``caller()``; without it, everybody may call.
    """

    name: str
    servicer: Any
    add: Callable[[Any, grpc.aio.Server], None]
    admit: Admit | None = None


@dataclass(frozen=True)
class RunningServer:
    """Where it listens, and the health that it tells."""

    host: str
    port: int
    metrics_port: int
    health: health.aio.HealthServicer

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


async def serve(
    settings: ServiceSettings,
    endpoints: Sequence[Endpoint],
    *,
    start: _Hook | None = None,
    ending: Callable[[], None] = lambda: None,
    stop: _Hook | None = None,
    registry: CollectorRegistry = REGISTRY,
) -> None:
    """Run until SIGTERM or SIGINT. A second signal ends the process at once, as it would without us."""
    stopping = asyncio.Event()
    with _on_signal(stopping.set):
        start_or_stop = _unless(stopping, start)
        async with running(
            settings, endpoints, start=start_or_stop, ending=ending, stop=stop, registry=registry
        ) as server:
            _log.info("serving", extra={"address": server.address, "metrics_port": server.metrics_port})
            await stopping.wait()
            _log.info("stopping", extra={"grace_seconds": settings.grace_seconds})
    _log.info("stopped")


@asynccontextmanager
async def running(
    settings: ServiceSettings,
    endpoints: Sequence[Endpoint],
    *,
    start: _Hook | None = None,
    ending: Callable[[], None] = lambda: None,
    stop: _Hook | None = None,
    registry: CollectorRegistry = REGISTRY,
) -> AsyncIterator[RunningServer]:
    """A server that listens; health says SERVING once ``start`` is done.

    ``ending`` is called when the grace of the calls in flight begins, ``stop`` runs after the last of them.

    On leaving: health says NOT_SERVING, new calls get UNAVAILABLE, those in flight have ``settings.grace_seconds``.
    """
    ready = ReadyInterceptor()
    admission = AdmissionInterceptor({endpoint.name: endpoint.admit for endpoint in endpoints if endpoint.admit})
    peers = [PeerInterceptor(settings.tls_client_names)] if settings.tls_client_names else []
    metrics = RedMetrics.of(registry)
    for endpoint in endpoints:
        metrics.begin(endpoint.name)
    server = _server(settings, [ready, *peers, admission], metrics)
    servicer = await _add_endpoints(server, endpoints)
    with _metrics_server(settings, registry) as metrics_port:
        port = _listen(server, settings)
        await server.start()
        try:
            if start is not None:
                await start()
            ready.ready = True
            for name in (*(endpoint.name for endpoint in endpoints), _ALL_SERVICES):
                await servicer.set(name, _SERVING)
            yield RunningServer(settings.host, port, metrics_port, servicer)
        finally:
            ending()
            await _stop(server, servicer, settings.grace_seconds)
            if stop is not None:
                await stop()


def _server(
    settings: ServiceSettings, doors: Sequence[grpc.aio.ServerInterceptor], metrics: RedMetrics
) -> grpc.aio.Server:
    max_message_bytes = settings.max_message_mib * 1024 * 1024
    return grpc.aio.server(
        interceptors=[
            TracingInterceptor(),
            MetricsInterceptor(metrics),
            ErrorInterceptor(),
            *doors,
            ValidationInterceptor(),
        ],
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # Two servers on one port would share its calls, silently.
            ("grpc.so_reuseport", 0),
            # By default a client that pings more than every 300 s is sent away with "too many pings", in the middle
            # of a long silent call.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # Finds callers that vanished without a word, so that their work stops.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            # Callers look for new replicas only when a connection ends. Calls in flight go on on the old one.
            ("grpc.max_connection_age_ms", 300_000),
        ],
        maximum_concurrent_rpcs=settings.max_concurrent_calls,
    )


async def _add_endpoints(server: grpc.aio.Server, endpoints: Sequence[Endpoint]) -> health.aio.HealthServicer:
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set(_ALL_SERVICES, _NOT_SERVING)
    for endpoint in endpoints:
        endpoint.add(endpoint.servicer, server)
        await servicer.set(endpoint.name, _NOT_SERVING)
    names = (*(endpoint.name for endpoint in endpoints), health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return servicer


def _listen(server: grpc.aio.Server, settings: ServiceSettings) -> int:
    address = f"{settings.host}:{settings.grpc_port}"
    try:
        if settings.tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, server_credentials(settings.tls))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: choose another grpc_port, or 0 for a free one") from error
    if port == 0:
        raise OSError(f"cannot listen on {address}: choose another grpc_port, or 0 for a free one")
    return port


async def _stop(server: grpc.aio.Server, servicer: health.aio.HealthServicer, grace_seconds: float) -> None:
    """Takes at most the grace and three times ``_UNWIND_SECONDS``, whatever the work does."""
    await servicer.enter_graceful_shutdown()
    stopping = asyncio.ensure_future(server.stop(grace_seconds))
    await asyncio.wait([stopping], timeout=grace_seconds + _UNWIND_SECONDS)
    if not await wait_until_idle(_UNWIND_SECONDS if stopping.done() else 0):
        _log.error("work went on after its cancellation and is abandoned; it ends with the process")
        abandon_work()
    await asyncio.wait_for(stopping, _UNWIND_SECONDS)


@contextmanager
def _metrics_server(settings: ServiceSettings, registry: CollectorRegistry) -> Iterator[int]:
    server, thread = start_http_server(settings.metrics_port, settings.host, registry)
    try:
        yield server.server_port
    finally:
        _close_http(server, thread)


def _close_http(server: WSGIServer, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join(timeout=5.0)


@contextmanager
def _on_signal(action: Callable[[], None]) -> Iterator[None]:
    """Call ``action`` at the first SIGTERM or SIGINT; the second one has its default effect again."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def handle() -> None:
        action()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in signals:
            with contextlib.suppress(ValueError):
                loop.remove_signal_handler(number)


def _unless(stopping: asyncio.Event, start: _Hook | None) -> _Hook:
    """``start``, given up when the signal comes first: nobody waits for a model that will not serve."""

    async def start_or_stop() -> None:
        if start is None:
            return
        loading = asyncio.ensure_future(start())
        waiting = asyncio.ensure_future(stopping.wait())
        await asyncio.wait([loading, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not loading.done():
            loading.cancel()
            return
        loading.result()

    return start_or_stop
