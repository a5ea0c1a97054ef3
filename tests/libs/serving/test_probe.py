from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from soundstage.video.v1 import video_pb2, video_pb2_grpc

from deploy.local.ports import free_ports
from libs.serving import ServiceSettings, TlsFiles, open_channel, running
from libs.serving.probe import main
from tests.libs.serving.echo import echo_video, video_endpoint
from tests.support.certificates import Authority


async def probed(settings: ServiceSettings, *options: str, loading: bool = False) -> int:
    """What the probe says of a server with these settings, or of one that still loads."""
    answers: list[int] = []

    async def start() -> None:
        if loading:
            answers.append(await asyncio.to_thread(main, [f"--address=127.0.0.1:{port}", "--seconds=1", *options]))

    (port,) = free_ports(1)
    settings = settings.model_copy(update={"grpc_port": port})
    async with running(settings, [video_endpoint(echo_video(at_once))], start=start, registry=CollectorRegistry()):
        answers.append(await asyncio.to_thread(main, [f"--address=127.0.0.1:{port}", "--seconds=10", *options]))
    return answers[0]


async def at_once(context: Any) -> None:
    """Answers without doing anything."""


def tls_settings(files: TlsFiles, *, ask: bool) -> ServiceSettings:
    return ServiceSettings(
        grace_seconds=1, tls_cert=files.cert, tls_key=files.key, tls_client_ca=files.ca if ask else None
    )


async def test_a_server_that_serves() -> None:
    assert await probed(ServiceSettings(grace_seconds=1)) == 0


async def test_a_server_that_still_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert await probed(ServiceSettings(grace_seconds=1), loading=True) == 1
    assert "NOT_SERVING" in capsys.readouterr().err


async def test_nobody_there(unused_port: int) -> None:
    assert await asyncio.to_thread(main, [f"--address=127.0.0.1:{unused_port}", "--seconds=0.2"]) == 1


async def test_over_tls_with_a_certificate(tmp_path: Path) -> None:
    files = Authority().files(tmp_path / "a")
    options = ("--name=localhost", f"--ca={files.ca}", f"--cert={files.cert}", f"--key={files.key}")
    assert await probed(tls_settings(files, ask=True), *options) == 0


async def test_over_tls_without_the_certificate_that_is_asked_for(tmp_path: Path) -> None:
    files = Authority().files(tmp_path / "a")
    assert await probed(tls_settings(files, ask=True), "--name=localhost", f"--ca={files.ca}", "--seconds=0.5") == 1


async def test_calls_are_spread_over_all_addresses() -> None:
    """One name with several replicas, as a headless service of Kubernetes is."""
    ports = free_ports(2)
    servicers = [echo_video(at_once), echo_video(at_once)]
    settings = [ServiceSettings(grace_seconds=1, grpc_port=port) for port in ports]
    async with (
        running(settings[0], [video_endpoint(servicers[0])], registry=CollectorRegistry()),
        running(settings[1], [video_endpoint(servicers[1])], registry=CollectorRegistry()),
        open_channel("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)) as channel,
    ):
        stub = video_pb2_grpc.VideoServiceStub(channel)
        async with asyncio.timeout(60):
            while not all(servicer.calls for servicer in servicers):
                await stub.GetVideo(video_pb2.GetVideoRequest(name="videos/1"), timeout=60, wait_for_ready=True)
