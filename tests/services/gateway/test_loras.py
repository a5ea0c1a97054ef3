"""A LoRA goes from the caller to the denoiser: as a file, or by the name of one that lies in the store."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from soundstage.video.v1 import video_pb2 as pb

from libs.artifacts import TENSORS_MEDIA_TYPE, FolderStore, Ref
from libs.errors import AlreadyExists, InvalidRequest
from services.gateway.loras import check_lora
from services.gateway.resolve import request_hash
from services.gateway.video import LoraRequest, VideoRequest
from tests.services.gateway.conftest import PROMPT, Scene, refused

FILE = save({"transformer.x.lora_A.weight": torch.ones(2, 2), "transformer.x.lora_B.weight": torch.ones(2, 2)})
SHA256 = hashlib.sha256(FILE).hexdigest()
BEFORE = "13aca0a8e1167178dc3312d45ffc46f1059e514856744078744a3d191ca33f0f"
"""Of the request below, by the version that had no LoRAs."""


async def test_a_file_is_kept_with_the_video_and_can_be_named_by_the_next(scene: Scene) -> None:
    first = await scene.create(lora={"file": FILE, "scale": 0.5})
    shown = first.spec.lora
    assert (shown.artifact.sha256, shown.scale, shown.file) == (SHA256, 0.5, b"")
    assert shown.artifact.uri.endswith("/input/first/lora.safetensors")
    second = await scene.create(lora={"artifact": shown.artifact})
    for video in (first, second):
        done = await scene.until(video.name, pb.STATE_SUCCEEDED)
        assert done.spec.lora == video.spec.lora
    # The denoiser here has read the file, each time.
    asked = {one.lora.scale: one.lora.artifact for one in scene.stages.denoise.requests}
    assert asked == {0.5: shown.artifact, 1.0: shown.artifact}


async def test_the_lora_belongs_to_the_request_that_a_repeat_must_equal(scene: Scene) -> None:
    def request(**lora: object) -> pb.CreateVideoRequest:
        spec = pb.VideoSpec(prompt=PROMPT, seed=1, lora=lora or None)
        return pb.CreateVideoRequest(spec=spec, request_id=request_id)

    request_id = str(uuid.uuid4())
    first = (await scene.stub.CreateVideo(request(file=FILE))).video
    again = (await scene.stub.CreateVideo(request(file=FILE))).video
    same = (await scene.stub.CreateVideo(request(file=FILE, scale=1.0))).video
    by_name = (await scene.stub.CreateVideo(request(artifact=first.spec.lora.artifact))).video
    assert {video.name for video in (again, same, by_name)} == {first.name}
    other = save({"transformer.x.lora_A.weight": torch.zeros(2, 2)})
    for changed in (request(file=FILE, scale=0.5), request(file=other), request()):
        error = await refused(scene.stub.CreateVideo(changed))
        assert (type(error), error.reason) == (AlreadyExists, "REQUEST_ID_REUSED")


async def test_only_ones_own_and_what_is_for_all_can_be_named(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    mine, other, shared = (
        store.put(key, FILE, TENSORS_MEDIA_TYPE)
        for key in ("acme/v1/input/first/lora.safetensors", "acme2/v1/x.safetensors", "_loras/x.safetensors")
    )
    for allowed in (mine, shared):
        await check_lora(store, "acme", LoraRequest(artifact=allowed))
    way_out = Ref(mine.uri.replace("v1", "../acme2/v1"), TENSORS_MEDIA_TYPE, len(FILE), SHA256)
    gone = Ref(mine.uri + "x", TENSORS_MEDIA_TYPE, len(FILE), SHA256)
    longer = Ref(mine.uri, TENSORS_MEDIA_TYPE, len(FILE) + 1, SHA256)
    for ref in (other, way_out, gone, longer, Ref(tmp_path.as_uri(), TENSORS_MEDIA_TYPE, 1, SHA256)):
        with pytest.raises(InvalidRequest) as raised:
            await check_lora(store, "acme", LoraRequest(artifact=ref))
        assert raised.value.reason == "LORA_UNKNOWN"
        assert [violation.field for violation in raised.value.violations] == ["spec.lora.artifact"]


def test_a_request_without_one_has_the_hash_it_had_before_there_were_any() -> None:
    """Else a repeat of a call to the version before would be refused."""
    request = VideoRequest(prompt="fire", seed=3)
    assert request_hash(request) == BEFORE
