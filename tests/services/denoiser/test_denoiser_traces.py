"""What a denoiser's spans tell of attempts that end early, and of those that others go before."""

from __future__ import annotations

import asyncio

from soundstage.denoiser.v1 import denoiser_pb2 as pb

from libs.serving import ServiceSettings, tracing
from tests.services.denoiser.conftest import Service
from tests.services.denoiser.test_checkpoints import STEPS, attempt, broken_off
from tests.support.collector import attributes, collecting

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),)


async def test_attempts_tell_in_their_callers_trace_what_happened(service: Service) -> None:
    with collecting() as collector:
        with tracing(ServiceSettings(otlp_endpoint=collector.url), "denoiser"):
            await broken_off(service, after=5, metadata=PARENT)
            async for _ in service.call(num_inference_steps=STEPS, attempt=attempt("a2"), metadata=PARENT):
                pass
        first, second = sorted(collector.named("denoise"), key=lambda span: span.start_time_unix_nano)
    assert first.trace_id.hex() == second.trace_id.hex() == TRACE
    begun_at = attributes(second)["soundstage.steps_before"]
    assert begun_at in (4, 6, 8, 10)
    assert attributes(first)["soundstage.steps_before"] == 0
    assert "checkpoint" in [event.name for event in first.events]
    assert "resumed" not in [event.name for event in first.events]
    resumed = next(event for event in second.events if event.name == "resumed")
    assert attributes(resumed)["soundstage.step"] == begun_at
    steps = [attributes(event)["soundstage.step"] for event in second.events if event.name == "step"]
    assert steps == list(range(begun_at + 1, STEPS + 1))


async def test_a_video_tells_when_a_more_urgent_one_steps_first(service: Service) -> None:
    service.pacer.seconds = 0.05
    urgent = {"priority": pb.PRIORITY_INTERACTIVE, "num_inference_steps": 2, "attempt": attempt("a1", "urgent")}
    with collecting() as collector:
        with tracing(ServiceSettings(otlp_endpoint=collector.url), "denoiser"):
            events = aiter(service.call(num_inference_steps=40, priority=pb.PRIORITY_BATCH, metadata=PARENT))
            while (await anext(events)).progress.progress.step < 1:
                pass
            await asyncio.wait_for(service.denoise(**urgent), 30)
            service.pacer.seconds = 0.0
            assert [event async for event in events][-1].HasField("result")
        (batch,) = [one for one in collector.named("denoise") if one.trace_id.hex() == TRACE]
    names = [event.name for event in batch.events]
    assert "step" in names[: names.index("preempted")]
    assert "step" in names[names.index("preempted") :]
