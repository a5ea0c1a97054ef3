"""The denoiser through a real server."""

from __future__ import annotations

import asyncio
import hashlib
import io
from itertools import groupby
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from soundstage.artifact.v1 import artifact_pb2
from soundstage.denoiser.v1 import denoiser_pb2 as pb

from libs.artifacts import get_tensors, put_tensors, ref_from_proto, ref_to_proto
from libs.errors import FailedPrecondition, InvalidRequest, NotFound, ResourceExhausted
from libs.serving import error_from_rpc
from tests.services.denoiser.conftest import Service
from tests.support.waiting import until


async def refusal(service: Service, **changes: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await service.denoise(**changes)
    return error_from_rpc(raised.value)


def of_kind(events: list[pb.DenoiseResponse], kind: str) -> list[Any]:
    return [getattr(event, kind) for event in events if event.WhichOneof("event") == kind]


async def test_every_step_is_told_and_latents_are_written(service: Service) -> None:
    events = await service.denoise()
    steps = of_kind(events, "progress")
    assert [step.progress.step for step in steps] == list(range(7))
    assert {step.progress.total_steps for step in steps} == {6}
    assert steps[0].step_seconds == 0
    assert all(step.step_seconds > 0 for step in steps[1:])
    result = events[-1].result
    assert result.latents.uri.endswith("/acme/v1/denoise/a1/latents.safetensors")
    latents = get_tensors(service.store, ref_from_proto(result.latents))["latents"]
    assert latents.shape == (1, 8, 4, 2, 2)
    assert latents.dtype.name == "float32"
    assert 0 < result.usage.load_seconds < result.usage.wall_seconds
    assert result.usage.gpu_seconds == pytest.approx(sum(step.step_seconds for step in steps))
    assert result.usage.gpu_seconds < result.usage.wall_seconds
    # Another video: checkpoints of this one may still be about to be deleted.
    assert (await service.denoise(attempt=attempt(2)))[-1].result.usage.load_seconds == 0
    assert service.registry.get_sample_value("soundstage_denoiser_step_seconds_count", {"model": "diorama"}) == 12


async def test_same_request_same_bits_another_seed_or_prompt_others(service: Service) -> None:
    async def digest(**changes: Any) -> str:
        return (await service.denoise(**changes))[-1].result.latents.sha256

    first = await digest()
    assert await digest() == first
    assert (
        await digest(preview_every_steps=1, attempt=artifact_pb2.Attempt(tenant="b", video_id="2", attempt="x"))
        == first
    )
    assert await digest(seed=2) != first
    assert await digest(conditioning=service.conditioning(seed=9)) != first


async def test_first_frame_is_kept(service: Service) -> None:
    conditioning = service.conditioning(first_frame=True)
    given = get_tensors(service.store, ref_from_proto(conditioning))["first_frame_latents"]
    events = await service.denoise(conditioning=conditioning)
    latents = get_tensors(service.store, ref_from_proto(events[-1].result.latents))["latents"]
    np.testing.assert_array_equal(latents[:, :, :1], given)


async def test_previews_are_small_jpegs_of_three_frames(service: Service) -> None:
    previews = of_kind(await service.denoise(preview_every_steps=2, width=64), "preview")
    assert [preview.step for preview in previews] == [2, 4, 6]
    for preview in previews:
        image = Image.open(io.BytesIO(preview.jpeg), formats=["JPEG"])
        assert image.size == (3 * 64, 32)
        image.load()
    assert previews[0].jpeg != previews[-1].jpeg


@pytest.mark.parametrize(
    ("given", "passed"), [(pb.PRIORITY_BATCH, 3), (pb.PRIORITY_INTERACTIVE, 1), (pb.PRIORITY_UNSPECIFIED, 2)]
)
async def test_transformer_calls_know_the_priority(service: Service, given: pb.Priority, passed: int) -> None:
    await service.denoise(priority=given, num_inference_steps=2)
    assert service.pacer.priorities == {passed}


async def test_no_previews_unless_asked_for(service: Service) -> None:
    assert of_kind(await service.denoise(), "preview") == []


async def test_heartbeats_fill_the_silence_of_a_long_step(service: Service) -> None:
    service.pacer.seconds = 0.35
    beats = [beat.elapsed_seconds for beat in of_kind(await service.denoise(num_inference_steps=2), "heartbeat")]
    assert len(beats) >= 4
    assert beats == sorted(beats)


async def test_cancel_stops_within_one_step(service: Service) -> None:
    service.pacer.seconds = 0.2
    call = service.call(num_inference_steps=100)
    async for event in call:
        if event.progress.progress.step == 2:
            break
    call.cancel()
    calls = service.pacer.calls
    await until(lambda: service.registry.get_sample_value("soundstage_denoiser_active_videos") == 0, seconds=2.0)
    assert service.pacer.calls <= calls + 1
    assert service.pacer.at_work == 0
    assert not [name for name in service.written() if "latents" in name]


async def test_a_stopped_stream_ends_when_no_step_runs_any_more(service: Service) -> None:
    service.pacer.seconds = 0.4
    call = service.call(num_inference_steps=100)
    await until(lambda: service.pacer.at_work == 1)
    stop = pb.StopRequest(attempt=attempt(1))
    stop.attempt.attempt = "a1"
    assert (await service.stub.Stop(stop)).at_work
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        [event async for event in call]
    assert (service.pacer.at_work, error_from_rpc(raised.value).reason) == (0, "STOPPED")
    assert not (await service.stub.Stop(stop)).at_work
    assert not [name for name in service.written() if "latents" in name]


async def test_the_older_goes_first_a_third_waits_and_a_fourth_is_refused(service: Service) -> None:
    alone = [(await service.denoise(seed=seed))[-1].result.latents.sha256 for seed in (1, 2, 3)]
    service.pacer.seconds, service.pacer.most_at_work = 0.03, 0
    order: list[int] = []
    queued: list[int] = []

    async def one(seed: int) -> str:
        digest = ""
        async for event in service.call(seed=seed, attempt=attempt(seed)):
            if event.progress.progress.step:
                order.append(seed)
            if event.HasField("queued"):
                queued.append(seed)
            digest = event.result.latents.sha256
        return digest

    together = [asyncio.create_task(one(seed)) for seed in (1, 2)]
    await until(lambda: service.registry.get_sample_value("soundstage_denoiser_active_videos") == 2)
    together.append(asyncio.create_task(one(3)))
    await until(lambda: queued == [3])
    error = await refusal(service)
    assert isinstance(error, ResourceExhausted)
    assert error.reason == "TOO_MANY_ACTIVE_VIDEOS"
    assert await asyncio.gather(*together) == alone
    assert service.pacer.most_at_work == 1
    # Either may have been ready for its first step before the other.
    assert [seed for seed, _ in groupby(order)] in ([1, 2, 3], [2, 1, 3], [1, 2, 1, 3], [2, 1, 2, 3])


def attempt(seed: int) -> artifact_pb2.Attempt:
    return artifact_pb2.Attempt(tenant="acme", video_id=f"v{seed}", attempt="a1")


async def test_one_that_waits_for_its_turn_can_be_cancelled(service: Service) -> None:
    service.pacer.seconds = 0.5
    first = service.call(num_inference_steps=3)
    await until(lambda: service.pacer.at_work == 1)
    second = service.call(num_inference_steps=3, attempt=attempt(2))
    await until(lambda: service.registry.get_sample_value("soundstage_denoiser_active_videos") == 2)
    second.cancel()
    await until(lambda: service.registry.get_sample_value("soundstage_denoiser_active_videos") == 1, seconds=0.4)
    service.pacer.seconds = 0.0
    assert [event async for event in first][-1].HasField("result")


async def test_unknown_model(service: Service) -> None:
    error = await refusal(service, model="sora")
    assert (type(error), error.reason) == (NotFound, "MODEL_UNKNOWN")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"width": 256}, "width"),
        ({"fps": 24.0, "num_frames": 24}, "fps"),
        ({"num_frames": 2}, "num_frames"),
        ({"num_frames": 97}, "num_frames"),
        ({"num_inference_steps": 101}, "num_inference_steps"),
        ({"guidance_scale": 0.5}, "guidance_scale"),
    ],
)
async def test_what_the_model_or_the_contract_does_not_allow(service: Service, changes: Any, field: str) -> None:
    error = await refusal(service, **changes)
    assert isinstance(error, InvalidRequest)
    assert [violation.field for violation in error.violations] == [field]
    assert service.pacer.calls == 0


async def test_missing_conditioning(service: Service) -> None:
    conditioning = service.conditioning()
    service.store.delete_prefix("acme/v1/encode")
    error = await refusal(service, conditioning=conditioning)
    assert (type(error), error.reason) == (FailedPrecondition, "ARTIFACT_MISSING")


async def test_altered_conditioning(service: Service) -> None:
    conditioning = service.conditioning()
    conditioning.sha256 = hashlib.sha256(b"other").hexdigest()
    error = await refusal(service, conditioning=conditioning)
    assert (type(error), error.reason) == (FailedPrecondition, "ARTIFACT_ALTERED")


async def test_conditioning_of_another_model(service: Service) -> None:
    tensors = {"prompt_embeds": np.zeros((1, 6, 100), np.float32)}
    conditioning = ref_to_proto(put_tensors(service.store, "acme/v1/encode/x/conditioning.safetensors", tensors))
    error = await refusal(service, conditioning=conditioning)
    assert (type(error), error.reason) == (FailedPrecondition, "CONDITIONING_UNFITTING")
    assert service.registry.get_sample_value("soundstage_denoiser_active_videos") == 0
