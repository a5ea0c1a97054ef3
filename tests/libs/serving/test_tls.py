"""TLS and mTLS over real connections, with files that are replaced while server and channel live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from soundstage.encoder.v1 import encoder_pb2 as pb
from soundstage.encoder.v1 import encoder_pb2_grpc as rpc

from libs.serving import ServiceSettings, Stage, TlsFiles, open_channel, running
from tests.libs.serving.echo import EchoEncoder, encode_request, encoder_endpoint
from tests.support.certificates import Authority


@asynccontextmanager
async def serving(files: TlsFiles, servicer: EchoEncoder | None = None) -> AsyncIterator[str]:
    settings = ServiceSettings(grace_seconds=5, tls_cert=files.cert, tls_key=files.key, tls_client_ca=files.ca)
    endpoints = [encoder_endpoint(servicer or EchoEncoder())]
    async with running(settings, endpoints, registry=CollectorRegistry()) as server:
        yield server.address


async def call(channel: grpc.aio.Channel) -> grpc.StatusCode:
    try:
        async for _ in rpc.EncoderServiceStub(channel).Encode(encode_request(), timeout=30):
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def code(address: str, tls: TlsFiles | None) -> grpc.StatusCode:
    async with open_channel(address, tls=tls, retries=False) as channel:
        return await call(channel)


async def test_only_who_trusts_the_authority_connects(tmp_path: Path) -> None:
    server = Authority().files(tmp_path / "server")
    async with serving(TlsFiles(server.cert, server.key)) as address:
        assert await code(address, TlsFiles(ca=server.ca)) is grpc.StatusCode.OK
        assert await code(address, TlsFiles()) is grpc.StatusCode.UNAVAILABLE
        assert await code(address, Authority().files(tmp_path / "other")) is grpc.StatusCode.UNAVAILABLE
        assert await code(address, None) is grpc.StatusCode.UNAVAILABLE


async def test_callers_must_show_a_certificate_of_the_authority(tmp_path: Path) -> None:
    ours, stranger = Authority(), Authority()
    server = ours.files(tmp_path / "server")
    async with serving(server) as address:
        assert await code(address, ours.files(tmp_path / "gateway")) is grpc.StatusCode.OK
        assert await code(address, TlsFiles(ca=server.ca)) is grpc.StatusCode.UNAVAILABLE
        theirs = stranger.files(tmp_path / "stranger", ca=ours)
        assert await code(address, theirs) is grpc.StatusCode.UNAVAILABLE


async def test_only_certain_names_of_the_authority_may_call(tmp_path: Path) -> None:
    """Health is asked by others than those who may call."""
    authority = Authority()
    server, gateway = authority.files(tmp_path / "server"), authority.files(tmp_path / "gateway")
    answers = {}
    for name in ("localhost", "spiffe://cluster/gateway"):
        settings = ServiceSettings(
            grace_seconds=5,
            tls_cert=server.cert,
            tls_key=server.key,
            tls_client_ca=server.ca,
            tls_client_names=(name,),
        )
        async with (
            running(settings, [encoder_endpoint(EchoEncoder())], registry=CollectorRegistry()) as running_server,
            open_channel(running_server.address, tls=gateway, retries=False) as channel,
        ):
            answers[name] = await call(channel)
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert (await health).status == health_pb2.HealthCheckResponse.SERVING
    assert list(answers.values()) == [grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED]


async def test_a_server_uses_files_that_were_replaced(tmp_path: Path) -> None:
    before, after = Authority(), Authority()
    files = before.files(tmp_path / "server")
    old, new = before.files(tmp_path / "old"), after.files(tmp_path / "new")
    async with serving(files) as address:
        assert await code(address, old) is grpc.StatusCode.OK
        assert files.key is not None
        key = files.key.read_bytes()
        files.key.write_bytes(b"half written")
        assert await code(address, old) is grpc.StatusCode.OK
        files.key.write_bytes(key)
        after.files(tmp_path / "server")
        assert await code(address, new) is grpc.StatusCode.OK
        assert await code(address, old) is grpc.StatusCode.UNAVAILABLE


async def test_a_channel_uses_files_that_were_replaced_and_ends_its_calls_on_the_old_ones(tmp_path: Path) -> None:
    before, after = Authority(), Authority()
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(stage: Stage) -> None:
        stage.progress(1, 2)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(60)

    shown: list[bytes] = []

    async def note_certificate(context: Any) -> None:
        shown.extend(context.auth_context()["x509_pem_cert"])

    server = before.files(tmp_path / "server")
    caller = before.files(tmp_path / "caller")
    async with (
        serving(server, EchoEncoder(work, note_certificate)) as address,
        open_channel(address, tls=caller) as channel,
    ):
        stub = rpc.EncoderServiceStub(channel)
        begun = stub.Encode(encode_request(), timeout=60)
        assert isinstance(await begun.read(), pb.EncodeResponse)
        after.files(tmp_path / "server")
        after.files(tmp_path / "caller")
        second = stub.Encode(encode_request(), timeout=60)
        assert isinstance(await second.read(), pb.EncodeResponse)
        go_on.set()
        for stream in (begun, second):
            while await stream.read() is not grpc.aio.EOF:
                pass
            assert await stream.code() is grpc.StatusCode.OK
    assert len(shown) == len(set(shown)) == 2


def test_settings_name_whole_sets_of_files(tmp_path: Path) -> None:
    files = Authority().files(tmp_path)
    with pytest.raises(ValueError, match="tls_key"):
        ServiceSettings(tls_cert=files.cert)
    with pytest.raises(ValueError, match="tls_cert"):
        ServiceSettings(tls_client_ca=files.ca)
    with pytest.raises(ValueError, match="tls_client_ca"):
        ServiceSettings(tls_cert=files.cert, tls_key=files.key, tls_client_names=("gateway",))
    with pytest.raises(ValueError, match="go together"):
        TlsFiles(cert=files.cert)
    assert ServiceSettings().tls is None


async def test_files_that_do_not_fit_stop_the_start(tmp_path: Path) -> None:
    files = Authority().files(tmp_path)
    assert files.key is not None
    Authority().files(tmp_path / "other")
    files.key.write_bytes((tmp_path / "other" / "key.pem").read_bytes())
    with pytest.raises(OSError, match="MISMATCH"):
        async with serving(files):
            pass
