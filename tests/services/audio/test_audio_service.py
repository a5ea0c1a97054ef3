"""The audio service through a real server, with a sound model whose output says what it was given."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from soundstage.artifact.v1 import artifact_pb2
from soundstage.audio.v1 import audio_pb2 as pb
from soundstage.audio.v1 import audio_pb2_grpc as rpc

from libs.artifacts import FolderStore, Ref, ref_from_proto, ref_to_proto
from libs.catalog import Catalog
from libs.errors import FailedPrecondition, Internal, InvalidRequest, NotFound, SoundstageError
from libs.families import PipelineCache
from libs.families.sounding import SoundPipeline
from libs.serving import Endpoint, ServiceSettings, error_from_rpc, open_channel, running
from services.audio.metrics import AudioMetrics
from services.audio.servicer import SERVICE_NAME, AudioServicer
from services.audio.settings import AudioSettings
from services.audio.synthesize import Synthesizer

RATE = 48_000
FLASH = 6
"""The bright frame of the picture; its left half is brighter than its right."""


@dataclass
class Model:
    """Noise as loud as each half of each frame is bright, on the side of that half."""

    gain: float = 0.5
    spoil: str = ""
    hold: threading.Event = field(default_factory=threading.Event)
    calls: list[tuple[tuple[int, ...], float, str, str, int]] = field(default_factory=list)

    def __call__(
        self, frames: NDArray[np.uint8], fps: float, prompt: str, intent: str, seed: int
    ) -> NDArray[np.float32]:
        self.calls.append((frames.shape, fps, prompt, intent, seed))
        if self.spoil == "hang":
            self.hold.wait(1.0)
        size = round(len(frames) / fps * RATE)
        if intent == "silent" and self.spoil != "noise":
            return np.zeros((2, size), np.float32)
        half = frames.shape[2] // 2
        levels = np.stack([frames[:, :, :half].mean(axis=(1, 2, 3)), frames[:, :, half:].mean(axis=(1, 2, 3))]) / 255
        at = np.minimum((np.arange(size) / RATE * fps).astype(int), len(frames) - 1)
        sound = levels[:, at] * np.random.default_rng(seed).uniform(-1, 1, size) * self.gain
        if self.spoil == "nan":
            sound[0, 100] = np.nan
        return sound[:, : size - (self.spoil == "short")].astype(np.float32)


@dataclass
class Setting:
    store: FolderStore
    model: Model
    registry: CollectorRegistry
    folder: Path
    stub: Any = None

    def request(self, fps: Fraction = Fraction(12), **changes: Any) -> pb.SynthesizeRequest:
        _write_picture(self.folder / "p.mp4", fps)
        picture = self.store.put_file("acme/v1/render/a0/picture.mp4", self.folder / "p.mp4", "video/mp4")
        fields: dict[str, Any] = {
            "attempt": artifact_pb2.Attempt(tenant="acme", video_id="v1", attempt="a1"),
            "model": "diorama",
            "picture": ref_to_proto(picture),
            "prompt": "a campfire",
            "intent": pb.AUDIO_INTENT_FULL,
            "seed": 7,
        }
        return pb.SynthesizeRequest(**(fields | changes))

    async def result(self, request: pb.SynthesizeRequest) -> pb.SynthesizeResult:
        return [event async for event in self.stub.Synthesize(request)][-1].result

    async def refused(self, request: pb.SynthesizeRequest) -> SoundstageError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [event async for event in self.stub.Synthesize(request)]
        return error_from_rpc(caught.value)

    def sound(self, result: pb.SynthesizeResult) -> NDArray[np.float64]:
        self.store.get_file(ref_from_proto(result.sound), self.folder / "s.flac")
        with av.open(str(self.folder / "s.flac")) as container:
            blocks = [frame.to_ndarray().reshape(-1, 2).T.astype(np.float64) for frame in container.decode(audio=0)]
        return np.concatenate(blocks, axis=1) / 2**31

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


def _write_picture(path: Path, fps: Fraction, num_frames: int = 15) -> None:
    """Dark, but for frame `FLASH`: left half white, right half half as bright."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "17"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        for index in range(num_frames):
            pixels = np.zeros((64, 64, 3), np.uint8)
            if index == FLASH:
                pixels[:, :32], pixels[:, 32:] = 255, 128
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    model, registry, store = Model(), CollectorRegistry(), FolderStore(tmp_path / "store")
    pipelines = PipelineCache[SoundPipeline](lambda _path, _family: model)
    metrics = AudioMetrics(registry)
    synthesizer = Synthesizer(store, Catalog.read(Path("models")), pipelines, metrics, max_picture_bytes=1 << 20)
    endpoint = Endpoint(SERVICE_NAME, AudioServicer(synthesizer), rpc.add_AudioServiceServicer_to_server)
    settings = ServiceSettings(artifacts_url=(tmp_path / "store").as_uri(), grace_seconds=2)
    async with (
        running(settings, [endpoint], registry=registry) as server,
        open_channel(server.address) as channel,
    ):
        yield Setting(store, model, registry, tmp_path, rpc.AudioServiceStub(channel))


@pytest.mark.parametrize("fps", [Fraction(12), Fraction(30000, 1001)])
async def test_sound_follows_the_picture(setting: Setting, fps: Fraction) -> None:
    result = await setting.result(setting.request(fps))
    assert 0 < result.usage.gpu_seconds < result.usage.wall_seconds
    assert result.sound.media_type == "audio/flac"
    assert result.sound.uri.endswith("acme/v1/synthesize/a1/sound.flac")
    sound = setting.sound(result)
    assert sound.shape == (2, round(15 / fps * RATE))
    begin, end = (round(n / fps * RATE) for n in (FLASH, FLASH + 1))
    loud, before = np.abs(sound[:, begin + 50 : end - 50]), np.abs(sound[:, : begin - 50])
    assert loud[0].max() == pytest.approx(0.5, abs=0.02)
    assert loud[1].max() == pytest.approx(0.25, abs=0.02)
    assert before.max() < 0.02
    assert setting.model.calls == [((15, 64, 64, 3), float(fps), "a campfire", "full", 7)]


async def test_measures_describe_the_stored_sound(setting: Setting) -> None:
    result = await setting.result(setting.request())
    sound = setting.sound(result)
    measures = result.measures
    assert measures.duration_seconds == pytest.approx(1.25)
    assert measures.peak_dbfs == pytest.approx(20 * np.log10(np.abs(sound).max()), abs=0.01)
    assert measures.rms_dbfs == pytest.approx(10 * np.log10(np.mean(sound**2)), abs=0.01)
    assert measures.balance == pytest.approx((0.25 - 1) / 1.25, abs=0.02)
    assert setting.count("soundstage_audio_turned_down_total") == 0


async def test_same_request_same_bytes_and_another_seed_others(setting: Setting) -> None:
    first, again = [(await setting.result(setting.request())).sound.sha256 for _ in range(2)]
    other = (await setting.result(setting.request(seed=8))).sound.sha256
    assert first == again != other


async def test_too_loud_a_sound_is_turned_down_and_counted(setting: Setting) -> None:
    setting.model.gain = 3.0
    result = await setting.result(setting.request())
    assert np.abs(setting.sound(result)).max() == pytest.approx(10 ** (-1 / 20), abs=1e-4)
    assert result.measures.peak_dbfs == pytest.approx(-1, abs=0.01)
    assert setting.count("soundstage_audio_turned_down_total") == 1


async def test_silence_is_digital(setting: Setting) -> None:
    result = await setting.result(setting.request(intent=pb.AUDIO_INTENT_SILENT))
    assert not setting.sound(result).any()
    assert (result.measures.rms_dbfs, result.measures.peak_dbfs) == (-200, -200)
    assert setting.model.calls[0][3] == "silent"


@pytest.mark.parametrize(
    ("intent", "name"),
    [
        (pb.AUDIO_INTENT_UNSPECIFIED, "full"),
        (pb.AUDIO_INTENT_AMBIENCE, "ambience"),
        (pb.AUDIO_INTENT_EFFECTS, "effects"),
    ],
)
async def test_intent_reaches_the_model(setting: Setting, intent: pb.AudioIntent.ValueType, name: str) -> None:
    await setting.result(setting.request(intent=intent))
    assert setting.model.calls[0][3] == name


@pytest.mark.parametrize(("spoil", "check"), [("short", "shape"), ("nan", "finite"), ("noise", "silence")])
async def test_a_spoilt_sound_never_leaves(setting: Setting, spoil: str, check: str) -> None:
    setting.model.spoil = spoil
    intent = pb.AUDIO_INTENT_SILENT if spoil == "noise" else pb.AUDIO_INTENT_FULL
    error = await setting.refused(setting.request(intent=intent))
    assert isinstance(error, Internal)
    assert setting.count("soundstage_audio_gate_failures_total", check=check) == 1
    assert not list(setting.folder.rglob("sound.flac"))


async def test_altered_picture_is_refused(setting: Setting) -> None:
    request = setting.request()
    path = setting.folder / "store/acme/v1/render/a0/picture.mp4"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    error = await setting.refused(request)
    assert (type(error), error.reason) == (FailedPrecondition, "ARTIFACT_ALTERED")


async def test_missing_picture_is_refused(setting: Setting) -> None:
    gone = Ref((setting.folder / "store/acme/v1/render/a9/picture.mp4").as_uri(), "video/mp4", 10, "0" * 64)
    error = await setting.refused(setting.request(picture=ref_to_proto(gone)))
    assert (type(error), error.reason) == (FailedPrecondition, "ARTIFACT_MISSING")


async def test_what_is_no_picture_is_refused(setting: Setting) -> None:
    text = ref_to_proto(setting.store.put("acme/v1/render/a0/text.mp4", b"not a picture" * 99, "video/mp4"))
    error = await setting.refused(setting.request(picture=text))
    assert (type(error), error.reason) == (FailedPrecondition, "PICTURE_UNREADABLE")


async def test_a_picture_beyond_memory_is_refused(setting: Setting) -> None:
    request = setting.request()
    _write_picture(setting.folder / "long.mp4", Fraction(12), num_frames=100)
    long = setting.store.put_file("acme/v1/render/a0/long.mp4", setting.folder / "long.mp4", "video/mp4")
    request.picture.CopyFrom(ref_to_proto(long))
    error = await setting.refused(request)
    assert (type(error), error.reason) == (FailedPrecondition, "PICTURE_TOO_LARGE")


async def test_latents_are_refused_by_a_model_that_sounds_by_the_picture(setting: Setting) -> None:
    request = setting.request()
    request.latents.CopyFrom(request.picture)
    error = await setting.refused(request)
    assert (type(error), error.reason) == (FailedPrecondition, "JOINT_AUDIO_UNSUPPORTED")


async def test_unknown_model_and_empty_prompt(setting: Setting) -> None:
    assert isinstance(await setting.refused(setting.request(model="nobody")), NotFound)
    error = await setting.refused(setting.request(prompt=""))
    assert isinstance(error, InvalidRequest)
    assert [violation.field for violation in error.violations] == ["prompt"]


async def test_cancelled_call_writes_nothing(setting: Setting) -> None:
    setting.model.spoil = "hang"
    call = setting.stub.Synthesize(setting.request())
    assert (await call.read()).progress.step == 1
    call.cancel()
    await asyncio.sleep(0.1)
    setting.model.hold.set()
    await asyncio.sleep(0.5)
    assert not list(setting.folder.rglob("sound.flac"))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_AUDIO_MAX_PICTURE_MIB", "64")
    assert AudioSettings().max_picture_mib == 64
