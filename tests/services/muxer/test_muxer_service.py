"""The muxer through a real server: a picture from latents, a file from picture and sound, and every refusal."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from prometheus_client import CollectorRegistry
from soundstage.artifact.v1 import artifact_pb2
from soundstage.muxer.v1 import muxer_pb2 as pb
from soundstage.muxer.v1 import muxer_pb2_grpc as rpc

from libs.artifacts import AttemptPrefix, FolderStore, Ref, put_tensors, ref_from_proto, ref_to_proto
from libs.catalog import Catalog
from libs.errors import FailedPrecondition, InvalidRequest, NotFound, SoundstageError
from libs.families import PipelineCache
from libs.serving import Endpoint, ServiceSettings, error_from_rpc, open_channel, running
from libs.triton.calling import current_call
from services.muxer.metrics import MuxerMetrics
from services.muxer.mux import Muxer
from services.muxer.render import Decode, Renderer
from services.muxer.servicer import SERVICE_NAME, MuxerServicer
from services.muxer.settings import MuxerSettings
from tests.services.muxer.clips import (
    FLASHES,
    clicking,
    coloured,
    read_picture,
    read_sound,
    write_carelessly,
    write_picture,
    write_sound,
)

ATTEMPT = artifact_pb2.Attempt(tenant="acme", video_id="v1", attempt="a1")
PREFIX = AttemptPrefix("acme", "v1", "denoise", "a0")


@dataclass
class Decoder:
    """Latents that are the pixels already. ``pause_seconds`` before each chunk of 4 frames."""

    pause_seconds: float = 0.0
    stopped: threading.Event = field(default_factory=threading.Event)
    priorities: set[int] = field(default_factory=set)
    encoding: list[bool] = field(default_factory=list)
    """Before each chunk: whether the process that encodes is there."""

    def __call__(self, latents: Mapping[str, NDArray[Any]], _num_frames: int) -> Iterator[NDArray[np.uint8]]:
        frames = latents["latents"][0]
        try:
            for begin in range(0, len(frames), 4):
                time.sleep(self.pause_seconds)
                self.priorities.add(current_call().priority)
                self.encoding.append(encodes())
                yield frames[begin : begin + 4].astype(np.uint8)
        finally:
            self.stopped.set()


def encodes() -> bool:
    children = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    commands = (Path(f"/proc/{pid}/cmdline") for pid in children)
    return any(b"services.muxer.encode" in command.read_bytes() for command in commands if command.exists())


@dataclass
class Setting:
    store: FolderStore
    decoder: Decoder
    registry: CollectorRegistry
    stub: Any = None

    def latents(self, frames: NDArray[np.uint8]) -> artifact_pb2.Artifact:
        ref = put_tensors(self.store, PREFIX.key("latents.safetensors"), {"latents": frames[None].astype(np.float32)})
        return ref_to_proto(ref)

    def render_request(self, frames: NDArray[np.uint8], num_frames: int, **changes: Any) -> pb.RenderRequest:
        fields: dict[str, Any] = {
            "attempt": ATTEMPT,
            "model": "diorama",
            "latents": self.latents(frames),
            "num_frames": num_frames,
            "fps_numerator": 12,
            "fps_denominator": 1,
        }
        return pb.RenderRequest(**(fields | changes))

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    decoder, registry, store = Decoder(), CollectorRegistry(), FolderStore(tmp_path / "store")
    metrics = MuxerMetrics(registry)
    pipelines = PipelineCache[Decode](lambda _path, _family: decoder)
    renderer = Renderer(store, Catalog.read(Path("models")), pipelines, metrics, threads=1, timeout_seconds=300)
    servicer = MuxerServicer(renderer, Muxer(store, metrics, timeout_seconds=300))
    endpoint = Endpoint(SERVICE_NAME, servicer, rpc.add_MuxerServiceServicer_to_server)
    settings = ServiceSettings(artifacts_url=(tmp_path / "store").as_uri(), grace_seconds=2)
    async with (
        running(settings, [endpoint], registry=registry) as server,
        open_channel(server.address) as channel,
    ):
        yield Setting(store, decoder, registry, rpc.MuxerServiceStub(channel))


async def _refused(call: Any) -> SoundstageError:
    """What the server raised; a result is a failure of the test."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [event async for event in call]
    return error_from_rpc(caught.value)


def _fetch(setting: Setting, artifact: artifact_pb2.Artifact, path: Path) -> Path:
    setting.store.get_file(ref_from_proto(artifact), path)
    return path


async def test_latents_become_the_picture(setting: Setting, tmp_path: Path) -> None:
    frames = coloured(26)
    events = [event async for event in setting.stub.Render(setting.render_request(frames, 24))]
    steps = [event.progress.step for event in events if event.HasField("progress")]
    assert steps == [4, 8, 12, 16, 20, 24]
    picture = events[-1].result.picture
    assert picture.media_type == "video/mp4"
    assert picture.uri.endswith("acme/v1/render/a1/picture.mp4")
    assert events[-1].result.usage.wall_seconds > 0
    decoded, times = read_picture(_fetch(setting, picture, tmp_path / "picture.mp4"))
    assert decoded.shape == (24, 64, 64, 3)
    assert np.abs(decoded[:, 16, 16].astype(int) - frames[:24, 16, 16]).max() <= 4
    np.testing.assert_allclose(times, np.arange(24) / 12)
    assert setting.count("soundstage_muxer_frames_total") == 24


async def test_encoding_begins_with_the_first_chunk(setting: Setting) -> None:
    """Not when all are decoded: the memory of a long video is that of a chunk, and both work at the same time."""
    assert [event async for event in setting.stub.Render(setting.render_request(coloured(12), 12))]
    assert setting.decoder.encoding == [False, True, True]


@pytest.mark.parametrize(("given", "passed"), [(pb.PRIORITY_INTERACTIVE, 1), (pb.PRIORITY_UNSPECIFIED, 2)])
async def test_decoding_knows_the_priority(setting: Setting, given: pb.Priority, passed: int) -> None:
    request = setting.render_request(coloured(), 8, priority=given)
    assert [event async for event in setting.stub.Render(request, timeout=30)]
    assert setting.decoder.priorities == {passed}


async def test_gpu_seconds_are_those_of_decoding(setting: Setting) -> None:
    setting.decoder.pause_seconds = 0.1
    events = [event async for event in setting.stub.Render(setting.render_request(coloured(8), 8), timeout=30)]
    usage = events[-1].result.usage
    assert 0.2 <= usage.gpu_seconds < usage.wall_seconds


async def test_same_latents_same_bytes(setting: Setting) -> None:
    request = setting.render_request(coloured(), 24)
    digests = {[event async for event in setting.stub.Render(request)][-1].result.picture.sha256 for _ in range(2)}
    assert len(digests) == 1


async def test_too_few_frames_are_refused_and_nothing_is_written(setting: Setting, tmp_path: Path) -> None:
    error = await _refused(setting.stub.Render(setting.render_request(coloured(8), 24)))
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "LATENTS_UNFIT"
    assert "at most 8" in str(error)
    assert not list((tmp_path / "store").rglob("picture.mp4"))


async def test_odd_size_is_refused(setting: Setting) -> None:
    error = await _refused(setting.stub.Render(setting.render_request(coloured()[:, :63], 24)))
    assert (type(error), error.reason) == (FailedPrecondition, "LATENTS_UNFIT")


async def test_altered_latents_are_refused(setting: Setting, tmp_path: Path) -> None:
    request = setting.render_request(coloured(), 24)
    path = next((tmp_path / "store").rglob("latents.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    error = await _refused(setting.stub.Render(request))
    assert (type(error), error.reason) == (FailedPrecondition, "ARTIFACT_ALTERED")


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"prompt_embeds": np.zeros((1, 24, 64, 64, 3), np.float32)}, "prompt_embeds"),
        ({"latents": np.zeros((24, 64, 64, 3), np.float32)}, "float32 (24, 64, 64, 3)"),
        ({"latents": np.zeros((1, 24, 64, 64, 3), np.float16)}, "float16"),
        ({"latents": np.full((1, 24, 64, 64, 3), np.nan, np.float32)}, "not finite"),
    ],
)
async def test_other_tensors_are_refused(setting: Setting, tensors: dict[str, Any], told: str) -> None:
    other = ref_to_proto(put_tensors(setting.store, PREFIX.key("other.safetensors"), tensors))
    error = await _refused(setting.stub.Render(setting.render_request(coloured(), 24, latents=other)))
    assert (type(error), error.reason) == (FailedPrecondition, "LATENTS_UNFIT")
    assert told in str(error)


async def test_unknown_model_is_not_found(setting: Setting) -> None:
    error = await _refused(setting.stub.Render(setting.render_request(coloured(), 24, model="nobody")))
    assert isinstance(error, NotFound)


async def test_a_rate_of_zero_is_invalid(setting: Setting) -> None:
    error = await _refused(setting.stub.Render(setting.render_request(coloured(), 24, fps_denominator=0)))
    assert isinstance(error, InvalidRequest)
    assert [violation.field for violation in error.violations] == ["fps_denominator"]


async def test_cancelling_stops_decoding_and_writes_nothing(setting: Setting, tmp_path: Path) -> None:
    setting.decoder.pause_seconds = 0.2
    call = setting.stub.Render(setting.render_request(coloured(120), 120))
    await call.read()
    call.cancel()
    assert await asyncio.to_thread(setting.decoder.stopped.wait, 1.0)
    assert not list((tmp_path / "store").rglob("picture.mp4"))


def _mux_request(setting: Setting, folder: Path, **changes: Any) -> pb.MuxRequest:
    """Flashes with clicks; frame 20 has the most to see."""
    frames = np.zeros((24, 64, 64, 3), np.uint8)
    frames[list(FLASHES)] = 255
    frames[20] = coloured(1)[0]
    frames[20, ::8] = 255
    write_picture(folder / "p.mp4", frames)
    write_sound(folder / "s.flac", clicking())
    picture = setting.store.put_file("acme/v1/render/a0/picture.mp4", folder / "p.mp4", "video/mp4")
    sound = setting.store.put_file("acme/v1/audio/a0/sound.flac", folder / "s.flac", "audio/flac")
    fields: dict[str, Any] = {
        "attempt": ATTEMPT,
        "picture": ref_to_proto(picture),
        "sound": ref_to_proto(sound),
        "title": "a\ntitle",
    }
    return pb.MuxRequest(**(fields | changes))


async def test_picture_and_sound_become_the_file(setting: Setting, tmp_path: Path) -> None:
    events = [event async for event in setting.stub.Mux(_mux_request(setting, tmp_path))]
    result = events[-1].result
    assert result.duration_seconds == 2
    assert result.video.uri.endswith("acme/v1/mux/a1/video.mp4")
    video = _fetch(setting, result.video, tmp_path / "video.mp4")
    frames, _ = read_picture(video)
    assert [n for n, frame in enumerate(frames) if frame.mean() > 200] == list(FLASHES)
    sound, begin = read_sound(video)
    assert begin == 0
    for frame in FLASHES:
        at = frame * 4000
        assert np.abs(sound[:, at : at + 240]).max() > 0.5
        assert np.abs(sound[:, at + 1500 : at + 3000]).max() < 0.05
    with Image.open(_fetch(setting, result.poster, tmp_path / "poster.jpg")) as poster:
        assert (poster.format, poster.size) == ("JPEG", (64, 64))
        assert np.abs(np.asarray(poster.convert("RGB")).astype(int)[12, 16] - (200, 30, 30)).max() <= 24


async def test_sound_of_another_length_is_refused(setting: Setting, tmp_path: Path) -> None:
    write_sound(tmp_path / "long.flac", np.zeros((2, 3 * 48_000), np.float32))
    ref = setting.store.put_file("acme/v1/audio/a0/long.flac", tmp_path / "long.flac", "audio/flac")
    error = await _refused(setting.stub.Mux(_mux_request(setting, tmp_path, sound=ref_to_proto(ref))))
    assert isinstance(error, FailedPrecondition)
    assert (error.reason, error.metadata["sound_seconds"]) == ("SOUND_LENGTH", "3.000000")
    assert not list((tmp_path / "store").rglob("video.mp4"))


async def test_missing_picture_is_refused(setting: Setting, tmp_path: Path) -> None:
    gone = Ref((tmp_path / "store" / "acme/v1/render/a9/picture.mp4").as_uri(), "video/mp4", 10, "0" * 64)
    error = await _refused(setting.stub.Mux(_mux_request(setting, tmp_path, picture=ref_to_proto(gone))))
    assert (type(error), error.reason) == (FailedPrecondition, "ARTIFACT_MISSING")


async def test_a_picture_that_is_not_ours_is_stopped_by_the_gate(setting: Setting, tmp_path: Path) -> None:
    """H.264, but without colour tags: readable, yet not what this service promises to deliver."""
    write_carelessly(tmp_path / "c.mp4", tagged=False, fast_start=True)
    ref = setting.store.put_file("acme/v1/render/a0/c.mp4", tmp_path / "c.mp4", "video/mp4")
    error = await _refused(setting.stub.Mux(_mux_request(setting, tmp_path, picture=ref_to_proto(ref))))
    assert "picture_colour" in str(error)
    assert setting.count("soundstage_muxer_gate_failures_total", check="picture_colour") == 1
    assert not list((tmp_path / "store").rglob("video.mp4"))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_MUXER_ENCODER_THREADS", "3")
    monkeypatch.setenv("SOUNDSTAGE_MUXER_WARM_MODELS", '["diorama"]')
    settings = MuxerSettings()
    assert (settings.encoder_threads, settings.warm_models) == (3, ("diorama",))
