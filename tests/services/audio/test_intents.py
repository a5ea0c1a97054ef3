"""What each intent sounds like: Diorama's sound model through the real service, levels as it measures them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path

import av
import pytest
import torch
from prometheus_client import CollectorRegistry
from soundstage.artifact.v1 import artifact_pb2
from soundstage.audio.v1 import audio_pb2 as pb
from soundstage.audio.v1 import audio_pb2_grpc as rpc

from libs.artifacts import FolderStore, ref_to_proto
from libs.catalog import Catalog
from libs.families import PipelineCache, load_sound
from libs.serving import Endpoint, ServiceSettings, open_channel, running
from services.audio.metrics import AudioMetrics
from services.audio.servicer import SERVICE_NAME, AudioServicer
from services.audio.synthesize import Synthesizer
from training.scenes import render
from training.scenes.base import SceneSpec

FRAMES, FPS = 36, 12


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Fireworks over the sea, rendered and not made by Diorama: bursts above something that goes on."""
    clip = render(SceneSpec("fireworks", time_of_day="night", seed=5), FRAMES, FPS, 64)
    path = tmp_path / "picture.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "17"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for pixels in (clip.frames * 255).round().astype("uint8"):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[rpc.AudioServiceAsyncStub]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    registry, store = CollectorRegistry(), FolderStore(tmp_path / "store")
    work = Synthesizer(
        store,
        Catalog.read(Path("models")),
        PipelineCache(load_sound),
        AudioMetrics(registry),
        max_picture_bytes=1 << 24,
    )
    endpoint = Endpoint(SERVICE_NAME, AudioServicer(work), rpc.add_AudioServiceServicer_to_server)
    async with (
        running(ServiceSettings(grace_seconds=2), [endpoint], registry=registry) as server,
        open_channel(server.address) as channel,
    ):
        yield rpc.AudioServiceStub(channel)
    torch.set_num_threads(before)


async def test_ambience_and_effects_are_the_parts_of_everything(
    stub: rpc.AudioServiceAsyncStub, picture: Path, tmp_path: Path
) -> None:
    """In power they add up to it; neither is nothing, and effects are the part with the higher peaks."""
    store = FolderStore(tmp_path / "store")
    stored = store.put_file("acme/v1/render/a0/picture.mp4", picture, "video/mp4")

    async def heard(intent: pb.AudioIntent.ValueType) -> pb.SoundMeasures:
        request = pb.SynthesizeRequest(
            attempt=artifact_pb2.Attempt(tenant="acme", video_id="v1", attempt=f"a{intent}"),
            model="diorama",
            picture=ref_to_proto(stored),
            prompt="fireworks over the sea, one after another",
            intent=intent,
            seed=7,
        )
        *_, last = [event async for event in stub.Synthesize(request)]
        return last.result.measures

    full, ambience, effects, silent = [
        await heard(intent)
        for intent in (
            pb.AUDIO_INTENT_FULL,
            pb.AUDIO_INTENT_AMBIENCE,
            pb.AUDIO_INTENT_EFFECTS,
            pb.AUDIO_INTENT_SILENT,
        )
    ]
    assert {measures.duration_seconds for measures in (full, ambience, effects, silent)} == {FRAMES / FPS}
    together = 10 * math.log10(10 ** (ambience.rms_dbfs / 10) + 10 ** (effects.rms_dbfs / 10))
    assert together == pytest.approx(full.rms_dbfs, abs=1.0)
    assert -70 < ambience.rms_dbfs < full.rms_dbfs - 0.3
    assert -70 < effects.rms_dbfs < full.rms_dbfs - 0.3
    assert effects.peak_dbfs - effects.rms_dbfs > ambience.peak_dbfs - ambience.rms_dbfs + 3
    assert (silent.rms_dbfs, silent.peak_dbfs) == (-200, -200)
