"""The encoder through a real server."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from soundstage.artifact.v1 import artifact_pb2
from soundstage.encoder.v1 import encoder_pb2 as pb

from libs.artifacts import get_tensors, ref_from_proto, ref_to_proto
from libs.errors import FailedPrecondition, InvalidRequest, NotFound
from libs.serving import error_from_rpc
from tests.services.encoder.conftest import Service


def picture(width: int = 48, height: int = 32, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def stored(service: Service, data: bytes, media_type: str = "image/png") -> artifact_pb2.Artifact:
    return ref_to_proto(service.store.put("acme/v1/upload/a1/image", data, media_type))


async def refusal(service: Service, **changes: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await service.encode(**changes)
    return error_from_rpc(raised.value)


async def test_text_becomes_conditioning_below_the_attempt_s_prefix(service: Service) -> None:
    events = await service.encode(prompt="a campfire", negative_prompt="rain")
    result = events[-1].result
    tensors = get_tensors(service.store, ref_from_proto(result.conditioning))
    assert result.conditioning.uri.endswith("/acme/v1/encode/a1/conditioning.safetensors")
    assert result.conditioning.media_type == "application/vnd.safetensors"
    assert sorted(tensors) == [
        "camera",
        "negative_prompt_attention_mask",
        "negative_prompt_embeds",
        "prompt_attention_mask",
        "prompt_embeds",
    ]
    assert 0 < result.usage.gpu_seconds < result.usage.wall_seconds
    assert result.usage.load_seconds == 0
    steps = [event.progress.step for event in events if event.WhichOneof("event") == "progress"]
    assert steps == [1, 2, 3]


async def test_same_request_same_bytes_another_prompt_others(service: Service) -> None:
    digests = [
        (await service.encode(prompt=prompt))[-1].result.conditioning.sha256 for prompt in ("sea", "sea", "snow")
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("kind", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg")])
async def test_first_frame_becomes_latents(service: Service, kind: str, media_type: str) -> None:
    events = await service.encode(image=stored(service, picture(kind=kind), media_type), width=64, height=32)
    tensors = get_tensors(service.store, ref_from_proto(events[-1].result.conditioning))
    assert tensors["first_frame_latents"].shape == (1, 8, 1, 2, 4)
    assert service.registry.get_sample_value("soundstage_encoder_images_total", {"model": "diorama"}) == 1


async def test_loading_a_model_is_counted_and_heartbeats_pass_meanwhile(service: Service) -> None:
    events = await service.encode(model="text-only")
    kinds = {event.WhichOneof("event") for event in events}
    usage = events[-1].result.usage
    loaded = service.registry.get_sample_value("soundstage_encoder_model_load_seconds", {"model": "text-only"})
    # Another test may have loaded it before: the cache is shared.
    if usage.load_seconds > 0.2:
        assert "heartbeat" in kinds
    assert usage.load_seconds == 0 or loaded == pytest.approx(usage.load_seconds)


async def test_unknown_model(service: Service) -> None:
    error = await refusal(service, model="sora")
    assert isinstance(error, NotFound)
    assert error.reason == "MODEL_UNKNOWN"
    assert "diorama" in str(error)


async def test_size_that_the_model_has_not(service: Service) -> None:
    error = await refusal(service, width=256)
    assert isinstance(error, InvalidRequest)
    assert error.reason == "OUTSIDE_MODEL_LIMITS"
    assert [violation.field for violation in error.violations] == ["width"]
    assert "32x32" in str(error)


async def test_image_for_a_model_that_takes_none(service: Service) -> None:
    error = await refusal(service, model="text-only", image=stored(service, picture()))
    assert [violation.field for violation in error.violations] == ["image"]


async def test_no_image_for_a_model_that_needs_one(service: Service) -> None:
    error = await refusal(service, model="image-only")
    assert [violation.field for violation in error.violations] == ["image"]
    assert "give one" in str(error)


@pytest.mark.parametrize(
    ("data", "media_type", "reason"),
    [
        (picture(), "image/gif", "IMAGE_UNSUPPORTED"),
        (picture(), "image/jpeg", "IMAGE_UNREADABLE"),
        (picture()[:500], "image/png", "IMAGE_UNREADABLE"),
        (b"just text, not a picture", "image/png", "IMAGE_UNREADABLE"),
        (b"", "image/png", "IMAGE_UNREADABLE"),
        (b"x" * (1 << 20) + b"x", "image/png", "IMAGE_TOO_LARGE"),
    ],
    ids=["gif", "png named jpeg", "cut off", "text", "empty", "many bytes"],
)
async def test_image_that_is_none(service: Service, data: bytes, media_type: str, reason: str) -> None:
    error = await refusal(service, image=stored(service, data, media_type))
    assert isinstance(error, InvalidRequest)
    assert (error.reason, error.violations[0].field) == (reason, "image")


async def test_missing_image(service: Service) -> None:
    image = stored(service, picture())
    service.store.delete_prefix("acme/v1/upload")
    error = await refusal(service, image=image)
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "ARTIFACT_MISSING"


async def test_altered_image(service: Service) -> None:
    image = stored(service, picture())
    image.sha256 = hashlib.sha256(b"other").hexdigest()
    error = await refusal(service, image=image)
    assert (type(error), error.reason) == (FailedPrecondition, "ARTIFACT_ALTERED")


async def test_empty_prompt_is_refused_at_the_edge(service: Service) -> None:
    error = await refusal(service, prompt="")
    assert isinstance(error, InvalidRequest)
    assert error.violations[0].field == "prompt"


async def directions(service: Service, *texts: str) -> Any:
    answer = await service.stub.Embed(pb.EmbedRequest(texts=texts), timeout=60)
    return np.array([embedding.values for embedding in answer.embeddings])


async def test_texts_that_mean_the_same_point_the_same_way(service: Service) -> None:
    texts = ("a campfire", "a blazing bonfire", "my tax return", "a campfire")
    fire, blaze, tax, fire_again = await directions(service, *texts)
    assert len(fire) == 384
    np.testing.assert_allclose([np.linalg.norm(row) for row in (fire, blaze, tax)], 1.0, atol=1e-5)
    assert fire @ blaze > 0.5 > 0.3 > fire @ tax
    np.testing.assert_allclose(fire, fire_again, atol=1e-5)
    assert service.registry.get_sample_value("soundstage_encoder_embedded_texts_total") == 4


async def test_a_text_s_direction_does_not_depend_on_those_beside_it(service: Service) -> None:
    alone = (await directions(service, "waves"))[0]
    texts = [*(f"a text of some words, number {number}" for number in range(70)), "waves", "x" * 2000]
    together = await directions(service, *texts)
    np.testing.assert_allclose(together[70], alone, atol=1e-5)


@pytest.mark.parametrize("texts", [[], [""], ["x" * 2001], ["x"] * 257], ids=["none", "empty", "long", "many"])
async def test_texts_beyond_the_limits_are_refused(service: Service, texts: list[str]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await directions(service, *texts)
    assert isinstance(error_from_rpc(raised.value), InvalidRequest)
