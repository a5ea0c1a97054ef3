"""A collector of traces for tests: a real OTLP receiver over HTTP that keeps what it is sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.http import QuietHandler, serving_http

__all__ = ["Collector", "attributes", "collecting"]


@dataclass
class Collector:
    """``status``: what it answers; with another than 200, it keeps nothing."""

    url: str = ""
    status: int = 200
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    bodies: list[bytes] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Span:
        (span,) = self.named(name)
        return span

    def wait_for(self, name: str, seconds: float = 60.0) -> None:
        """Until a span of this name has come. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not self.named(name):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no span {name!r} within {seconds:g} s")
            time.sleep(0.05)

    def children(self, parent: Span) -> list[str]:
        """Names, in order of their begin."""
        own = [span for span in self.spans if span.parent_span_id == parent.span_id]
        return [span.name for span in sorted(own, key=lambda span: span.start_time_unix_nano)]


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if collector.status == 200:
                assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
                _keep(collector, body)
            collector.asked.set()
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with serving_http(Handler) as collector.url:
        yield collector


def _keep(collector: Collector, body: bytes) -> None:
    collector.bodies.append(body)
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        collector.services.add(str(attributes(of_resource.resource)["service.name"]))
        for of_scope in of_resource.scope_spans:
            collector.spans.extend(of_scope.spans)


def attributes(one: Any) -> dict[str, object]:
    """Of a span, an event or a resource."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in one.attributes}
