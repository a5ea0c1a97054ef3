"""A whole gateway for a test: real gRPC, real SQLite file, real Temporal, light stage services."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from soundstage.denoiser.v1 import denoiser_pb2
from soundstage.video.v1 import video_pb2 as pb
from soundstage.video.v1 import video_pb2_grpc as rpc

from deploy.local.ports import free_ports
from libs.artifacts import FolderStore, prefix_from_proto, ref_to_proto
from libs.serving import TlsFiles, error_from_rpc, open_channel, running
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import Gateway
from tests.support.stages import StageServers, serving_stages
from tests.support.temporal import temporal_address

__all__ = ["temporal_address"]

PROMPT = "a campfire on a beach at night"
TERMINAL = (pb.STATE_SUCCEEDED, pb.STATE_FAILED, pb.STATE_CANCELLED)


@dataclass
class Scene:
    """A running gateway, its stub and the stages behind it."""

    stub: rpc.VideoServiceAsyncStub
    stages: StageServers
    settings: GatewaySettings
    artifacts: Path

    async def create(self, **spec: Any) -> pb.Video:
        request = pb.CreateVideoRequest(spec=pb.VideoSpec(**{"prompt": PROMPT, **spec}))
        return (await self.stub.CreateVideo(request, timeout=60)).video

    async def get(self, name: str) -> pb.Video:
        return (await self.stub.GetVideo(pb.GetVideoRequest(name=name), timeout=30)).video

    async def watch(self, name: str, after_sequence: int = 0) -> list[pb.WatchVideoResponse]:
        request = pb.WatchVideoRequest(name=name, after_sequence=after_sequence)
        return [event async for event in self.stub.WatchVideo(request, timeout=120)]

    async def until(self, name: str, state: int, seconds: float = 60.0) -> pb.Video:
        async with asyncio.timeout(seconds):
            while (video := await self.get(name)).state != state:
                assert video.state not in TERMINAL, video
                await asyncio.sleep(0.05)
        return video

    def preview_sounds(self) -> None:
        """From now on the denoiser brings the preview of a sound, where one is asked for."""
        store = FolderStore(self.artifacts)

        def at(point: str, request: Any, control: Any) -> None:
            if point == "middle" and request.preview_sound:
                key = prefix_from_proto(request.attempt, "denoise").key("preview-00001.wav")
                sound = ref_to_proto(store.put(key, b"RIFF", "audio/wav"))
                control.emit(denoiser_pb2.DenoisePreview(step=1, sound=sound))

        self.stages.denoise.at = at

    def files(self) -> list[Path]:
        return [path for path in self.artifacts.rglob("*") if path.is_file()]


async def refused(call: Any) -> Any:
    """The error of the tree that `call` ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


def settings_for(folder: Path, temporal_address: str, stage_address: str, **fields: Any) -> GatewaySettings:
    """Settings on fresh files; `fields` override."""
    given = {
        "grace_seconds": 0.5,
        "artifacts_url": (folder / "artifacts").as_uri(),
        "models_dir": Path("models"),
        "database_url": f"sqlite+aiosqlite:///{folder / 'gateway.db'}",
        "temporal_address": temporal_address,
        "encoder_address": stage_address,
        "denoiser_address": stage_address,
        "audio_address": stage_address,
        "muxer_address": stage_address,
        "preview_every_steps": 1,
        "retry_first_seconds": 0.2,
        "sweep_every_seconds": 0.3,
        "sweep_quiet_seconds": 1.0,
    }
    return GatewaySettings(**{**given, **fields})


@asynccontextmanager
async def serving_gateway(
    settings: GatewaySettings, stages: StageServers, artifacts: Path, tls: TlsFiles | None = None
) -> AsyncIterator[Scene]:
    gateway = Gateway(settings)
    async with (
        running(settings, gateway.endpoints, start=gateway.start, stop=gateway.stop) as server,
        open_channel(server.address, tls=tls) as channel,
    ):
        yield Scene(rpc.VideoServiceStub(channel), stages, settings, artifacts)


@asynccontextmanager
async def working(settings: GatewaySettings) -> AsyncIterator[None]:
    """A worker alone, without a server around it."""
    worker = Gateway(settings)
    await worker.start()
    try:
        yield
    finally:
        await worker.stop()


@contextmanager
def gateway_process(settings: GatewaySettings, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """An api or a worker as a process of its own, and the address that it will listen at; killed at the end."""
    (port,) = free_ports(1)
    told = {name: getattr(settings, name) for name in settings.model_fields_set} | {"grpc_port": port}
    environment = {f"SOUNDSTAGE_GATEWAY_{name.upper()}": str(value) for name, value in told.items()}
    with (folder / f"{settings.role}-{port}.log").open("wb") as log:
        command = [sys.executable, "-m", "services.gateway"]
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process, f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(60)


@pytest.fixture
def settings_of(tmp_path: Path, temporal_address: str) -> Callable[..., GatewaySettings]:
    """Settings on fresh files and a task queue of their own; keyword arguments override."""
    task_queue = f"test-{uuid.uuid4()}"

    def make(stages: StageServers, **fields: Any) -> GatewaySettings:
        own = {"temporal_task_queue": task_queue, **fields}
        return settings_for(tmp_path, temporal_address, stages.address, **own)

    return make


@pytest.fixture
async def stages(tmp_path: Path) -> AsyncIterator[StageServers]:
    async with serving_stages(FolderStore(tmp_path / "artifacts")) as servers:
        yield servers


@pytest.fixture
async def scene(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> AsyncIterator[Scene]:
    async with serving_gateway(settings_of(stages), stages, tmp_path / "artifacts") as scene:
        yield scene
