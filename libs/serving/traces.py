"""Spans of OpenTelemetry, sent to a collector; nothing, at no cost, where no `otlp_endpoint` is set.

Attributes get the prefix ``soundstage.`` and hold ids, names and counts: never what somebody wrote, so that not even an
exception's message goes out, only its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from libs.serving.settings import ServiceSettings
from libs.serving.stage import Cancelled

if TYPE_CHECKING:
    from libs.serving.otlp import Spans

__all__ = [
    "SpanKind",
    "child_of",
    "describe",
    "event",
    "fail",
    "finished_span",
    "is_tracing",
    "span",
    "trace_ids",
    "trace_metadata",
    "traceparent",
    "tracing",
]

Value = str | int | float | bool
_TRACEPARENT = "traceparent"
_PREFIX = "soundstage."
_W3C = TraceContextTextMapPropagator()
_spans: Spans | None = None
"""Of this process."""


@contextmanager
def tracing(settings: ServiceSettings, service: str, *, flush_seconds: float = 3.0) -> Iterator[None]:
    """This process's spans go to ``settings.otlp_endpoint``; on leaving, the last ones, for so long at most."""
    global _spans
    if not settings.otlp_endpoint:
        yield
        return
    from libs.serving.otlp import Spans  # the SDK costs nothing where nothing is traced

    spans, before = Spans(settings.otlp_endpoint, settings.trace_ratio, f"soundstage-{service}"), _spans
    _spans = spans
    try:
        yield
    finally:
        _spans = before
        spans.close(flush_seconds)


def is_tracing() -> bool:
    return _spans is not None


@contextmanager
def span(
    name: str, *, parent: Context | None = None, kind: SpanKind = SpanKind.INTERNAL, **attributes: Value
) -> Iterator[None]:
    """What happens within it, in this task or thread. ``parent``: by default the span that it lies in."""
    if _spans is None:
        yield
        return
    with _spans.tracer.start_as_current_span(
        name,
        context=parent,
        kind=kind,
        attributes=_prefixed(attributes),
        record_exception=False,
        set_status_on_exception=False,
    ):
        try:
            yield
        except grpc.aio.AbortError:  # what it stands for is told already
            raise
        except BaseException as error:
            wanted = isinstance(error, Cancelled) or not isinstance(error, Exception)
            fail(_reason_of(error), is_fault=not wanted)
            raise


def finished_span(
    name: str, parent: Context, span_id: int, times: tuple[datetime, datetime], **attributes: Value
) -> None:
    """A span with an id that its children know already, told of once it is over. With ``error``, it failed of that."""
    if _spans is None:
        return
    began, ended = (round(time.timestamp() * 1e9) for time in times)
    with _spans.with_id(span_id):
        one = _spans.tracer.start_span(name, context=parent, start_time=began, attributes=_prefixed(attributes))
    if error := attributes.get("error"):
        one.set_status(Status(StatusCode.ERROR, str(error)))
    one.end(ended)


def describe(**attributes: Value) -> None:
    """Further attributes of the current span."""
    if _spans is not None:
        trace.get_current_span().set_attributes(_prefixed(attributes))


def event(name: str, **attributes: Value) -> None:
    """Something that happens at one moment of the current span."""
    if _spans is not None:
        trace.get_current_span().add_event(name, _prefixed(attributes))


def fail(reason: str, *, is_fault: bool = True) -> None:
    """Why the current span came to nothing; ``is_fault`` is false for what somebody wanted, or asked wrongly."""
    if _spans is not None:
        current = trace.get_current_span()
        current.set_attribute("error.type", reason)
        if is_fault:
            current.set_status(Status(StatusCode.ERROR, reason))


def traceparent() -> str:
    """Of the current span, as W3C's Trace Context writes it; empty without one."""
    if _spans is None:
        return ""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get(_TRACEPARENT, "")


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """What a gRPC call takes with it, so that the other side's spans lie in the current one."""
    parent = traceparent()
    return ((_TRACEPARENT, parent),) if parent else ()


def child_of(parent: str, span_id: int | None = None) -> Context:
    """Where spans begin that lie in ``parent``, a traceparent, or in its span ``span_id``; without one, a new trace."""
    remote = trace.get_current_span(_W3C.extract({_TRACEPARENT: parent}, Context())).get_span_context()
    if not remote.is_valid:
        return Context()
    inner = trace.SpanContext(
        remote.trace_id, span_id or remote.span_id, is_remote=True, trace_flags=remote.trace_flags
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(inner), Context())


def trace_ids() -> dict[str, str]:
    """`trace_id` and `span_id` of the current span, for a line of the log; empty without one."""
    if _spans is None:
        return {}
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}


def _reason_of(error: BaseException) -> str:
    """Ours have a ``reason``, Temporal's a ``type``."""
    reason = getattr(error, "reason", None) or getattr(error, "type", None)
    return reason if isinstance(reason, str) else type(error).__name__


def _prefixed(attributes: Mapping[str, Value]) -> dict[str, Value]:
    return {f"{_PREFIX}{name}": value for name, value in attributes.items()}
