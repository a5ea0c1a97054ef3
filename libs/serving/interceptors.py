"""What happens around every call of every service.

Outside in: trace, figures, errors, readiness, admission, validation.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import ClassVar
from weakref import WeakKeyDictionary

import grpc
import protovalidate
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Histogram
from soundstage.artifact.v1 import artifact_pb2

from libs.errors import FieldViolation, Internal, InvalidRequest, SoundstageError, Unavailable
from libs.serving.around import AroundInterceptor, Call
from libs.serving.status import DETAILS_KEY, status_of
from libs.serving.traces import SpanKind, child_of, describe, fail, is_tracing, span

__all__ = [
    "FAULT_CODES",
    "ErrorInterceptor",
    "InvalidMessage",
    "MetricsInterceptor",
    "ReadyInterceptor",
    "RedMetrics",
    "TracingInterceptor",
    "ValidationInterceptor",
]

_log = logging.getLogger(__name__)
FAULT_CODES = ("UNAVAILABLE", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "DATA_LOSS", "UNIMPLEMENTED")
"""Names of the codes that the objective about calls takes for failures; the chart's rules say them too."""
# From a health check to a video's whole denoising.
_BUCKETS = (0.005, 0.025, 0.1, 0.25, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class RedMetrics:
    """Rate, errors and duration of every RPC."""

    _of_registry: ClassVar[WeakKeyDictionary[CollectorRegistry, RedMetrics]] = WeakKeyDictionary()

    def __init__(self, registry: CollectorRegistry) -> None:
        self.handled = Counter(
            "grpc_server_handled",
            "RPCs completed on the server.",
            ["grpc_service", "grpc_method", "grpc_code"],
            registry=registry,
        )
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "Seconds from the begin of an RPC to its end.",
            ["grpc_service", "grpc_method"],
            buckets=_BUCKETS,
            registry=registry,
        )

    def begin(self, service: str) -> None:
        """From 0 on: a series that begins with 1 has not increased, for Prometheus. ``service`` is a full name."""
        for method in descriptor_pool.Default().FindServiceByName(service).methods:
            for code in ("OK", *FAULT_CODES):
                self.handled.labels(service, method.name, code)

    @classmethod
    def of(cls, registry: CollectorRegistry) -> RedMetrics:
        """The instruments of ``registry``, made once: a registry refuses a name that it has."""
        if registry not in cls._of_registry:
            cls._of_registry[registry] = cls(registry)
        return cls._of_registry[registry]


class MetricsInterceptor(AroundInterceptor):
    def __init__(self, metrics: RedMetrics) -> None:
        self._metrics = metrics

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        began = time.perf_counter()

        def count(code: str) -> None:
            self._metrics.seconds.labels(call.service, call.method).observe(time.perf_counter() - began)
            self._metrics.handled.labels(call.service, call.method, code).inc()

        with _telling_its_code(call, count):
            yield


class TracingInterceptor(AroundInterceptor):
    """A span for each call, within the caller's where its metadata have a `traceparent`; none for health checks."""

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        if not is_tracing() or call.service.startswith("grpc."):
            yield
            return
        metadata = dict(call.context.invocation_metadata() or ())
        parent = child_of(str(metadata.get("traceparent", "")))
        with span(f"{call.service}/{call.method}", parent=parent, kind=SpanKind.SERVER):
            _describe_attempt(call.request)
            with _telling_its_code(call, partial(trace.get_current_span().set_attribute, "rpc.response.status_code")):
                yield


def _describe_attempt(request: object) -> None:
    attempt = getattr(request, "attempt", None)
    if isinstance(attempt, artifact_pb2.Attempt):
        describe(tenant=attempt.tenant, video_id=attempt.video_id, attempt_id=attempt.attempt)


@contextmanager
def _telling_its_code(call: Call, tell: Callable[[str], None]) -> Iterator[None]:
    """Tells, once the block has ended in whatever way, the code that the call ended with."""
    cut_off = True
    try:
        yield
        cut_off = False
    except Exception:
        cut_off = False
        raise
    finally:
        tell(_code_when_cut_off(call) if cut_off else _code_of(call))


def _code_of(call: Call) -> str:
    """The code the call ended with. grpc.aio gives 0, a number or a StatusCode."""
    code: object = call.context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((known.name for known in grpc.StatusCode if known.value[0] == code), "OK")


def _code_when_cut_off(call: Call) -> str:
    remaining_seconds = call.context.time_remaining()
    return "CANCELLED" if remaining_seconds is None or remaining_seconds > 0 else "DEADLINE_EXCEEDED"


_FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
"""Of ours: the server, not its caller, is to blame."""


class ErrorInterceptor(AroundInterceptor):
    """Ends a call that raised with the status of its error. What nobody foresaw is logged in full, told to nobody."""

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        try:
            yield
        except grpc.aio.AbortError:
            raise
        except SoundstageError as error:
            if isinstance(error, Internal):
                _log.exception("call failed", extra=_names(call))
            await _abort(call, error)
        except Exception:  # noqa: BLE001 (the last one: nothing above it would answer the caller)
            _log.exception("call failed", extra=_names(call))
            await _abort(call, Internal("internal error", reason="INTERNAL"))


def _names(call: Call) -> dict[str, str]:
    return {"grpc_service": call.service, "grpc_method": call.method}


async def _abort(call: Call, error: SoundstageError) -> None:
    status = status_of(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    fail(error.reason, is_fault=code in _FAULTS)
    await call.context.abort(code, status.message, ((DETAILS_KEY, status.SerializeToString()),))


class ReadyInterceptor(AroundInterceptor):
    """Refuses calls until the models are loaded; health and reflection answer all the time."""

    def __init__(self) -> None:
        self.ready = False

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        if not self.ready and not call.service.startswith("grpc."):
            raise Unavailable("the service is starting; try again", reason="STARTING")
        yield


class InvalidMessage(InvalidRequest):
    """A request that breaks the rules written in its proto."""


class ValidationInterceptor(AroundInterceptor):
    """Checks every request against the rules in its proto, so that no servicer begins with a bad one."""

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        if isinstance(call.request, Message):
            self._check(call.request)
        yield

    def _check(self, request: Message) -> None:
        if found := self._validator.collect_violations(request):
            raise InvalidMessage(*map(_violation, found))


def _violation(found: protovalidate.Violation) -> FieldViolation:
    elements = found.proto.field.elements if found.proto.field is not None else []
    names = [
        element.field_name + (f"[{element.subscript.value}]" if element.subscript is not None else "")
        for element in elements
    ]
    return FieldViolation(".".join(names) or "request", found.proto.message or found.proto.rule_id)
