from __future__ import annotations

import io
import json
import logging
import socket
from collections.abc import Iterator

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client import REGISTRY, CollectorRegistry
from pydantic import ValidationError
from soundstage.encoder.v1 import encoder_pb2_grpc as rpc

from libs.errors import NotFound
from libs.serving import ServiceSettings, Stage, open_channel, running, span, trace_metadata, traceparent, tracing
from libs.serving.otlp import BATCH_SPANS, QUEUE_SPANS
from libs.serving.telemetry import JsonFormatter
from tests.libs.serving.echo import ENCODER, EchoEncoder, encode_request, encoder_endpoint
from tests.support.collector import Collector, attributes, collecting

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_SAMPLED = f"{SAMPLED[:-1]}0"
SECRET = "a red fox in the snow"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def given(collector: Collector, **changes: float) -> ServiceSettings:
    return ServiceSettings(otlp_endpoint=collector.url, grace_seconds=0.5, **changes)


def work(stage: Stage) -> None:
    with span("work", frames=3):
        stage.progress(1, 1)


def refuse(stage: Stage) -> None:
    with span("work"):
        raise NotFound(f"nothing for {SECRET}", reason="NOTHING")


async def call(settings: ServiceSettings, encoder: EchoEncoder, *parents: str) -> None:
    """One after the other; what they end with is of no interest here."""
    async with (
        running(settings, [encoder_endpoint(encoder)], registry=CollectorRegistry()) as server,
        open_channel(server.address) as channel,
    ):
        for parent in parents:
            metadata = (("traceparent", parent),) if parent else ()
            try:
                async for _ in rpc.EncoderServiceStub(channel).Encode(encode_request(SECRET), metadata=metadata):
                    pass
            except grpc.aio.AioRpcError:
                pass


async def test_spans_of_a_stage_lie_in_those_of_its_caller(collector: Collector) -> None:
    with tracing(given(collector), "echo"):
        await call(given(collector), EchoEncoder(work), SAMPLED)
    served, inside = collector.one(f"{ENCODER}/Encode"), collector.one("work")
    assert served.trace_id.hex() == inside.trace_id.hex() == SAMPLED.split("-")[1]
    assert served.parent_span_id.hex() == SAMPLED.split("-")[2]
    assert inside.parent_span_id == served.span_id
    assert served.kind == Span.SPAN_KIND_SERVER
    assert attributes(inside) == {"soundstage.frames": 3}
    expected = {"tenant": "acme", "video_id": "v1", "attempt_id": "a1"}
    assert attributes(served).items() >= {f"soundstage.{name}": value for name, value in expected.items()}.items()
    assert attributes(served)["rpc.response.status_code"] == "OK"
    assert collector.services == {"soundstage-echo"}


async def test_an_error_is_told_by_its_reason_alone(collector: Collector) -> None:
    with tracing(given(collector), "echo"):
        await call(given(collector), EchoEncoder(refuse), SAMPLED)
    served, inside = collector.one(f"{ENCODER}/Encode"), collector.one("work")
    assert attributes(inside)["error.type"] == attributes(served)["error.type"] == "NOTHING"
    assert attributes(served)["rpc.response.status_code"] == "NOT_FOUND"
    assert served.status.code == Status.STATUS_CODE_UNSET, "the caller is to blame"
    assert not any(SECRET.encode() in body for body in collector.bodies)


async def test_the_caller_decides_what_is_kept_and_the_ratio_for_those_without_a_trace(collector: Collector) -> None:
    settings = given(collector, trace_ratio=0.0)
    with tracing(settings, "echo"):
        await call(settings, EchoEncoder(work), SAMPLED, NOT_SAMPLED, "", "nonsense")
    assert [one.trace_id.hex() for one in collector.named("work")] == [SAMPLED.split("-")[1]]


async def test_health_checks_are_not_traced(collector: Collector) -> None:
    with tracing(given(collector), "echo"):
        async with (
            running(given(collector), [encoder_endpoint(EchoEncoder())], registry=CollectorRegistry()) as server,
            open_channel(server.address) as channel,
        ):
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            await check(b"", timeout=30)
    assert collector.spans == []


async def test_without_an_endpoint_nothing_is_made() -> None:
    with tracing(ServiceSettings(), "echo"), span("work"):
        assert (traceparent(), trace_metadata()) == ("", ())


def test_log_lines_name_the_trace_that_they_belong_to(collector: Collector) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("echo"))
    record = logging.makeLogRecord({"msg": "hello"})
    with tracing(given(collector), "echo"):
        handler.handle(record)
        with span("work"):
            handler.handle(record)
            current = traceparent()
    outside, inside = map(json.loads, stream.getvalue().splitlines())
    assert "trace_id" not in outside
    assert current.startswith(f"00-{inside['trace_id']}-{inside['span_id']}-")


def dropped() -> float:
    return REGISTRY.get_sample_value("soundstage_dropped_spans_total") or 0.0


def test_what_the_collector_refuses_is_counted_and_said_once(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    before, collector.status = dropped(), 503
    with tracing(given(collector), "echo"):
        for _ in range(2):
            collector.asked.clear()
            with span("work"):
                pass
            assert collector.asked.wait(60)
    assert dropped() == before + 2
    assert [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()] == [
        f"spans are dropped until {collector.url}/v1/traces takes them: it answers 503"
    ]


def test_a_collector_that_never_answers_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    """A listener that accepts and says nothing, and more spans than the queue holds: nobody waits, some are lost."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = ServiceSettings(otlp_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with tracing(settings, "echo", flush_seconds=0.1):
            for _ in range(QUEUE_SPANS + 3 * BATCH_SPANS):
                with span("work"):
                    pass
        said = [record.getMessage() for record in caplog.records]  # before the listener is gone, which is told, too
    assert "Queue full, dropping Span." in said
    assert said[-1] == "the last spans could not be sent within 0.1 s"


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://a b"])
def test_an_endpoint_is_a_url(endpoint: str) -> None:
    with pytest.raises(ValidationError):
        ServiceSettings(otlp_endpoint=endpoint)
