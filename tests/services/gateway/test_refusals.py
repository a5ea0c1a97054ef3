"""Bad input ends at the edge: INVALID_ARGUMENT with the field and what to do, and nothing is created."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
import torch
from google.protobuf.duration_pb2 import Duration
from PIL import Image
from safetensors.torch import save
from soundstage.video.v1 import video_pb2 as pb

from libs.errors import InvalidRequest
from tests.services.gateway.conftest import PROMPT, Scene, refused, serving_gateway, settings_for
from tests.support.stages import StageServers

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory, temporal_address: str) -> AsyncIterator[Scene]:
    """Only accepts videos; nothing works on them."""
    folder = tmp_path_factory.mktemp("gateway")
    settings = settings_for(folder, temporal_address, "127.0.0.1:1", role="api")
    async with serving_gateway(settings, StageServers(), folder / "artifacts") as scene:
        yield scene


def _picture(width: int, height: int, file_format: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height)).save(data, format=file_format)
    return data.getvalue()


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bomb() -> bytes:
    """A PNG of 60,000 x 60,000 black pixels in a few hundred KiB: 3.6 gigapixels if anybody decoded it."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes(7501) * 2000, 9)
    chunks = _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", body) + _png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("picture.png", bytes(50_000_000))
    return data.getvalue()


LORA = save({"transformer.x.lora_A.weight": torch.ones(2, 2), "transformer.x.lora_B.weight": torch.ones(2, 2)})
ELSEWHERE = {
    "uri": "file:///etc/passwd",
    "media_type": "application/vnd.safetensors",
    "size_bytes": 7,
    "sha256": "0" * 64,
}

CASES = {
    "no spec": ({"prompt": ""}, "spec.prompt", "INVALID_FIELD"),
    "blank prompt": ({"prompt": " \n\t "}, "spec.prompt", "INVALID_FIELD"),
    "10,000 words": ({"prompt": "fire " * 10_000}, "spec.prompt", "INVALID_FIELD"),
    "long negative prompt": ({"negative_prompt": "x" * 2001}, "spec.negative_prompt", "INVALID_FIELD"),
    "0 s": ({"duration": {"seconds": 0}}, "spec.duration", "INVALID_FIELD"),
    "-1 s": ({"duration": {"seconds": -1}}, "spec.duration", "INVALID_FIELD"),
    "0.2 s": ({"duration": {"nanos": 200_000_000}}, "spec.duration", "INVALID_FIELD"),
    "20 s": ({"duration": {"seconds": 20}}, "spec.duration", "INVALID_FIELD"),
    "1000 s": ({"duration": {"seconds": 1000}}, "spec.duration", "INVALID_FIELD"),
    "odd width": ({"width": 255}, "spec.width", "INVALID_FIELD"),
    "unknown height": ({"height": 512}, "spec.height", "INVALID_FIELD"),
    "huge width": ({"width": 100_000}, "spec.width", "INVALID_FIELD"),
    "unknown rate": ({"fps": 25.0}, "spec.fps", "INVALID_FIELD"),
    "no rate": ({"fps": float("nan")}, "spec.fps", "INVALID_FIELD"),
    "too many steps": ({"num_inference_steps": 101}, "spec.num_inference_steps", "INVALID_FIELD"),
    "no steps": ({"num_inference_steps": 0}, "spec.num_inference_steps", "INVALID_FIELD"),
    "guidance": ({"guidance_scale": 0.5}, "spec.guidance_scale", "INVALID_FIELD"),
    "negative seed": ({"seed": -1}, "spec.seed", "INVALID_FIELD"),
    "unknown preset": ({"preset": 77}, "spec.preset", "INVALID_FIELD"),
    "unknown model": ({"model": "sora"}, "spec.model", "MODEL_UNKNOWN"),
    "a path as model": ({"model": "../diorama"}, "spec.model", "MODEL_UNKNOWN"),
    "text as image": ({"image": b"I am a picture, honestly"}, "spec.image", "IMAGE_UNUSABLE"),
    "zip bomb as image": ({"image": _zip()}, "spec.image", "IMAGE_UNUSABLE"),
    "pixel bomb": ({"image": _bomb()}, "spec.image", "IMAGE_UNUSABLE"),
    "cut JPEG": ({"image": _picture(300, 300, "JPEG")[:400]}, "spec.image", "IMAGE_UNUSABLE"),
    "GIF in PNG's clothes": ({"image": b"\x89PNG\r\n\x1a\n" + _picture(32, 32, "GIF")}, "spec.image", "IMAGE_UNUSABLE"),
    "tiny image": ({"image": _picture(8, 200)}, "spec.image", "IMAGE_UNUSABLE"),
    "text as LoRA": ({"lora": {"file": b"I am a LoRA, honestly"}}, "spec.lora.file", "LORA_UNUSABLE"),
    "pickle as LoRA": ({"lora": {"file": pickle.dumps({"lora": 1})}}, "spec.lora.file", "LORA_UNUSABLE"),
    "cut LoRA": ({"lora": {"file": LORA[:-1]}}, "spec.lora.file", "LORA_UNUSABLE"),
    "model as LoRA": ({"lora": {"file": save({"proj_in.weight": torch.ones(2)})}}, "spec.lora.file", "LORA_UNUSABLE"),
    "no LoRA in it": ({"lora": {"scale": 1.0}}, "spec.lora.source", "INVALID_FIELD"),
    "LoRA times 3": ({"lora": {"file": LORA, "scale": 3.0}}, "spec.lora.scale", "INVALID_FIELD"),
    "LoRA elsewhere": ({"lora": {"artifact": ELSEWHERE}}, "spec.lora.artifact", "LORA_UNKNOWN"),
    "LoRA without hash": (
        {"lora": {"artifact": {**ELSEWHERE, "sha256": "x"}}},
        "spec.lora.artifact.sha256",
        "INVALID_FIELD",
    ),
    "9 MiB image": ({"image": b"\x89PNG\r\n\x1a\n" + bytes(9 << 20)}, "spec.image", "INVALID_FIELD"),
}


@pytest.mark.parametrize(("spec", "field", "reason"), CASES.values(), ids=CASES)
async def test_a_bad_spec_is_refused_and_nothing_is_created(
    api: Scene, spec: dict[str, Any], field: str, reason: str
) -> None:
    request = pb.CreateVideoRequest(spec=pb.VideoSpec(**{"prompt": PROMPT, **spec}))
    error = await refused(api.stub.CreateVideo(request, timeout=30))
    assert isinstance(error, InvalidRequest)
    assert error.reason == reason
    assert [violation.field for violation in error.violations] == [field]
    assert len(error.violations[0].description) > 10
    await _nothing_is_there(api)


async def test_other_bad_requests(api: Scene) -> None:
    past = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT))
    past.deadline.FromDatetime(datetime.now(UTC) - timedelta(minutes=1))
    bad_id = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT), request_id="mine")
    cases = [
        (api.stub.CreateVideo(past), "deadline"),
        (api.stub.CreateVideo(bad_id), "request_id"),
        (api.stub.CreateVideo(pb.CreateVideoRequest()), "spec"),
        (api.stub.GetVideo(pb.GetVideoRequest(name="../etc/passwd")), "name"),
        (api.stub.ListVideos(pb.ListVideosRequest(page_size=-1)), "page_size"),
        (api.stub.AnalyzePrompt(pb.AnalyzePromptRequest(prompt="fire", model="sora")), "model"),
    ]
    for call, field in cases:
        error = await refused(call)
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == [field]
    await _nothing_is_there(api)


async def test_the_unknown_model_is_answered_with_the_known_ones(api: Scene) -> None:
    error = await refused(api.stub.CreateVideo(pb.CreateVideoRequest(spec=pb.VideoSpec(prompt="x", model="sora"))))
    assert "diorama" in error.violations[0].description


async def test_two_faults_are_named_together(api: Scene) -> None:
    spec = pb.VideoSpec(prompt=PROMPT, width=64, height=64, duration=Duration(seconds=20))
    error = await refused(api.stub.CreateVideo(pb.CreateVideoRequest(spec=spec)))
    assert {violation.field for violation in error.violations} == {"spec.width", "spec.height", "spec.duration"}


async def test_models_and_quota(api: Scene) -> None:
    models = (await api.stub.ListModels(pb.ListModelsRequest())).models
    assert models[0].name == "diorama"
    assert [(size.width, size.height) for size in models[0].limits.sizes] == [(256, 256)]
    assert models[0].defaults.duration.seconds == 5

    assert (await api.stub.GetQuota(pb.GetQuotaRequest())).active_videos == 0


async def _nothing_is_there(api: Scene) -> None:
    assert not (await api.stub.ListVideos(pb.ListVideosRequest())).videos
    assert api.files() == []
