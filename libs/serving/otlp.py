"""Spans on their way to a collector: OTLP over HTTP, as protobuf.

Nobody waits for the collector: spans wait in a bounded queue, a thread sends them in batches, and what cannot be sent
within a short time is dropped and counted. Only imported where something is traced.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import urllib3
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_client import Counter
from typing_extensions import override

__all__ = ["DROPPED", "OtlpExporter", "Spans"]

_log = logging.getLogger(__name__)

DROPPED = Counter("soundstage_dropped_spans_total", "Spans that the collector did not take.")
QUEUE_SPANS, BATCH_SPANS, BATCH_MILLISECONDS = 2048, 512, 1000
"""A full queue drops the oldest spans, which the SDK logs, at most every 20 s."""
_SEND_SECONDS = 2.0
_PATH = "/v1/traces"
_HEADERS = {"Content-Type": "application/x-protobuf", "User-Agent": "soundstage"}


class Spans:
    """What makes spans in this process. ``ratio``: share of the traces that are kept where no caller has decided."""

    def __init__(self, endpoint: str, ratio: float, service_name: str) -> None:
        self._ids = _Ids()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create({SERVICE_NAME: service_name}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        exporter = OtlpExporter(endpoint)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, QUEUE_SPANS, BATCH_MILLISECONDS, BATCH_SPANS, _SEND_SECONDS * 1000)
        )
        self.tracer = self._provider.get_tracer("soundstage")

    @contextmanager
    def with_id(self, span_id: int) -> Iterator[None]:
        """The next span begun here has this id."""
        token = self._ids.given.set(span_id)
        try:
            yield
        finally:
            self._ids.given.reset(token)

    def close(self, seconds: float) -> None:
        """Sends what waits; what is left after ``seconds`` is lost, and its thread ends with the process."""
        closing = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        closing.start()
        closing.join(seconds)
        if closing.is_alive():
            _log.warning("the last spans could not be sent within %g s", seconds)


class OtlpExporter(SpanExporter):
    """One try a batch. The first failure is logged, and the first success after it."""

    def __init__(self, endpoint: str) -> None:
        self._url = endpoint.rstrip("/").removesuffix(_PATH) + _PATH
        self._pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=_SEND_SECONDS))
        self._failed = False

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        problem = self._send(encode_spans(spans).SerializeToString())
        if problem:
            DROPPED.inc(len(spans))
            if not self._failed:
                _log.warning("spans are dropped until %s takes them: %s", self._url, problem)
        elif self._failed:
            _log.info("%s takes spans again", self._url)
        self._failed = bool(problem)
        return SpanExportResult.FAILURE if problem else SpanExportResult.SUCCESS

    def _send(self, body: bytes) -> str:
        """What went wrong; empty when the collector took it."""
        try:
            answer = self._pool.request("POST", self._url, body=body, headers=_HEADERS)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return str(error)
        return "" if answer.status < 300 else f"it answers {answer.status}"

    @override
    def shutdown(self) -> None:
        self._pool.clear()

    @override
    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class _Ids(RandomIdGenerator):
    given: ContextVar[int] = ContextVar("given_span_id", default=0)

    @override
    def generate_span_id(self) -> int:
        return self.given.get() or super().generate_span_id()
