"""The connection to Temporal over TLS: our development server has none, so a proxy before it asks for certificates."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from pydantic import ValidationError
from soundstage.video.v1 import video_pb2 as pb

from libs.errors import Unavailable
from libs.serving import TlsFiles
from services.gateway.runner import TemporalRunner
from services.gateway.settings import GatewaySettings
from tests.services.gateway.conftest import PROMPT, Scene, serving_gateway
from tests.support.certificates import Authority
from tests.support.stages import StageServers
from tests.support.tls_proxy import serving_tls


async def test_a_video_is_made_over_tls_and_strangers_are_not_let_in(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path, temporal_address: str
) -> None:
    ours = Authority()
    server, client = ours.files(tmp_path / "server"), ours.files(tmp_path / "client")
    with serving_tls(temporal_address, server) as address:
        named = {"temporal_ca": client.ca, "temporal_cert": client.cert, "temporal_key": client.key}
        settings = settings_of(stages, **named).model_copy(update={"temporal_address": address})
        async with serving_gateway(settings, stages, tmp_path / "artifacts") as scene:
            assert (await scene.watch((await scene.create()).name))[-1].video.state == pb.STATE_SUCCEEDED
        for files in (
            None,
            TlsFiles(ca=client.ca),
            TlsFiles(client.cert, client.key, Authority().files(tmp_path / "x").ca),
        ):
            with pytest.raises(Unavailable) as refused:
                await TemporalRunner(address, "default", "none", tls=files).connect(0.5)
            assert refused.value.reason == "TEMPORAL_UNAVAILABLE"


async def test_replaced_certificates_are_used_without_a_restart(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path, temporal_address: str
) -> None:
    """Temporal's side trusts another authority from one moment on: api and worker get no further with theirs."""
    old, new = Authority(), Authority()
    client = old.files(tmp_path / "client")
    named = {"temporal_ca": client.ca, "temporal_cert": client.cert, "temporal_key": client.key}
    async with AsyncExitStack() as stack:
        with serving_tls(temporal_address, old.files(tmp_path / "old")) as address:
            settings = settings_of(stages, **named).model_copy(update={"temporal_address": address})
            scene = await stack.enter_async_context(serving_gateway(settings, stages, tmp_path / "artifacts"))
            assert (await scene.watch((await scene.create()).name))[-1].video.state == pb.STATE_SUCCEEDED
        with serving_tls(temporal_address, new.files(tmp_path / "new"), int(address.rpartition(":")[2])):
            request = pb.CreateVideoRequest(request_id=str(uuid.uuid4()), spec=pb.VideoSpec(prompt=PROMPT))
            new.files(tmp_path / "client")
            async with asyncio.timeout(150):
                while (name := await _accepted(scene, request)) is None:  # noqa: ASYNC110 - a server to come
                    await asyncio.sleep(0.2)
            assert (await scene.watch(name))[-1].video.state == pb.STATE_SUCCEEDED


async def _accepted(scene: Scene, request: pb.CreateVideoRequest) -> str | None:
    try:
        return (await scene.stub.CreateVideo(request, timeout=60)).video.name
    except grpc.aio.AioRpcError:
        return None


def test_what_is_half_said_is_refused() -> None:
    assert GatewaySettings(role="api").temporal_tls_files is None
    assert GatewaySettings(role="api", temporal_tls=True).temporal_tls_files == TlsFiles()
    with pytest.raises(ValidationError, match="go together"):
        GatewaySettings(role="api", temporal_cert=Path("cert.pem"))
