"""Attempts that end early leave something to go on from; who goes on makes the same latents."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from soundstage.artifact.v1 import artifact_pb2

from libs.artifacts import TENSORS_MEDIA_TYPE, MemoryStore, Ref, ref_to_proto
from libs.errors import FailedPrecondition, Unavailable
from tests.services.denoiser.conftest import Service
from tests.services.denoiser.test_denoiser_service import of_kind, refusal, until

STEPS = 12


def attempt(name: str, video: str = "v1") -> artifact_pb2.Attempt:
    return artifact_pb2.Attempt(tenant="acme", video_id=video, attempt=name)


async def broken_off(service: Service, after: int, **changes: Any) -> list[artifact_pb2.Artifact]:
    """An attempt `a1` that ends after so many steps; its checkpoints."""
    service.pacer.seconds = 0.02
    call = service.call(num_inference_steps=STEPS, attempt=attempt("a1"), **changes)
    events = []
    async for event in call:
        events.append(event)
        if event.progress.progress.step == after:
            break
    call.cancel()
    await until(lambda: service.registry.get_sample_value("soundstage_denoiser_active_videos") == 0)
    written = None
    while (now := service.written()) != written:  # the last one may still be on its way
        written = now
        await asyncio.sleep(0.2)
    service.pacer.seconds = 0.0
    return [kept.checkpoint for kept in of_kind(events, "checkpoint")]


def newest(service: Service) -> artifact_pb2.Artifact:
    """The reference to it, as its event told it."""
    name = [name for name in service.written() if "checkpoint" in name][-1]
    key = f"acme/v1/denoise/{name}"
    (size,) = (stored.size_bytes for stored in service.store.walk() if stored.key == key)
    sha256 = name.removesuffix(".safetensors").rpartition("-")[2]
    return ref_to_proto(Ref(service.store.uri_of(key), TENSORS_MEDIA_TYPE, size, sha256))


async def expected(service: Service) -> str:
    events = await service.denoise(num_inference_steps=STEPS, attempt=attempt("a1", "elsewhere"))
    return str(events[-1].result.latents.sha256)


def begins_at(events: list[Any]) -> int:
    return int(of_kind(events, "progress")[0].progress.step)


def checkpoints(service: Service, outcome: str) -> float:
    return service.registry.get_sample_value("soundstage_denoiser_checkpoints_total", {"outcome": outcome}) or 0.0


async def test_the_next_attempt_goes_on_and_ends_with_the_same_latents(service: Service) -> None:
    whole = await expected(service)
    await broken_off(service, after=7)
    calls = service.pacer.calls
    events = await service.denoise(num_inference_steps=STEPS, attempt=attempt("a2"))
    assert begins_at(events) in (4, 6, 8, 10)
    assert service.pacer.calls - calls == STEPS - begins_at(events)
    steps = [step.progress.step for step in of_kind(events, "progress")]
    assert steps == list(range(begins_at(events), STEPS + 1))
    assert events[-1].result.latents.sha256 == whole
    await until(lambda: service.written() == ["a2/latents.safetensors"])


async def test_checkpoints_are_told_and_the_last_two_are_kept(service: Service) -> None:
    told = await broken_off(service, after=9)
    assert len(told) >= 3
    kept = [name for name in service.written() if "checkpoint" in name]
    assert len(kept) == 2
    assert told[-1].media_type == TENSORS_MEDIA_TYPE


async def test_a_damaged_one_is_passed_over_for_the_one_before(service: Service) -> None:
    whole = await expected(service)
    await broken_off(service, after=9)
    before, newest = (name for name in service.written() if "checkpoint" in name)
    key = f"acme/v1/denoise/{newest}"
    service.store.put(key, b"damaged", TENSORS_MEDIA_TYPE)
    events = await service.denoise(num_inference_steps=STEPS, attempt=attempt("a2"))
    assert begins_at(events) == int(before.split("-")[1])
    assert events[-1].result.latents.sha256 == whole
    assert checkpoints(service, "damaged") == 1


@pytest.mark.parametrize("changes", [{"seed": 2}, {"guidance_scale": 2.0}, {"num_frames": 16}])
async def test_one_of_another_request_is_passed_over(service: Service, changes: Any) -> None:
    await broken_off(service, after=7)
    events = await service.denoise(num_inference_steps=STEPS, attempt=attempt("a2"), **changes)
    assert begins_at(events) == 0
    assert checkpoints(service, "unfit") >= 1


async def test_a_given_one_is_used_wherever_it_lies(service: Service) -> None:
    whole = await expected(service)
    await broken_off(service, after=7)
    last = newest(service)
    events = await service.denoise(num_inference_steps=STEPS, attempt=attempt("a1", "v2"), checkpoint=last)
    assert begins_at(events) > 0
    assert events[-1].result.latents.sha256 == whole


async def test_a_given_one_that_does_not_fit_is_refused(service: Service) -> None:
    await broken_off(service, after=7)
    last = newest(service)
    error = await refusal(service, num_inference_steps=STEPS, seed=9, checkpoint=last)
    assert (type(error), error.reason) == (FailedPrecondition, "CHECKPOINT_UNFIT")
    gone = ref_to_proto(Ref(service.store.uri_of("acme/v1/x"), TENSORS_MEDIA_TYPE, 1, "0" * 64))
    error = await refusal(service, num_inference_steps=STEPS, checkpoint=gone)
    assert (type(error), error.reason) == (FailedPrecondition, "ARTIFACT_MISSING")


async def test_a_store_that_takes_none_costs_no_video(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    put = MemoryStore.put

    def refuses(store: MemoryStore, key: str, data: bytes, media_type: str) -> Ref:
        if "checkpoint" in key:
            raise Unavailable("full", reason="STORE_UNAVAILABLE")
        return put(store, key, data, media_type)

    monkeypatch.setattr(MemoryStore, "put", refuses)
    service.pacer.seconds = 0.01
    events = await service.denoise(num_inference_steps=STEPS)
    assert events[-1].HasField("result")
    assert checkpoints(service, "failed") >= 1
