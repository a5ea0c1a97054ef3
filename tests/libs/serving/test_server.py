"""Start, health, reflection, limits and stop of a real server."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry
from soundstage.encoder.v1 import encoder_pb2_grpc as rpc

from libs.serving import ServiceSettings, Stage, error_from_rpc, running
from tests.libs.serving.echo import ENCODER, EchoEncoder, encode_request, encoder_endpoint

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def _health(channel: grpc.aio.Channel, name: str) -> int:
    request = health_pb2.HealthCheckRequest(service=name)
    return (await health_pb2_grpc.HealthStub(channel).Check(request, timeout=60)).status


async def _encode(channel: grpc.aio.Channel, prompt: str = "fire") -> list[Any]:
    return [event async for event in rpc.EncoderServiceStub(channel).Encode(encode_request(prompt), timeout=60)]


async def test_health_is_told_for_the_service_and_for_all(
    settings: ServiceSettings, registry: CollectorRegistry
) -> None:
    async with (
        running(settings, [encoder_endpoint(EchoEncoder())], registry=registry) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        assert [await _health(channel, name) for name in (ENCODER, "")] == [SERVING, SERVING]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _health(channel, "soundstage.other.v1.OtherService")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_nothing_is_served_until_start_is_done(registry: CollectorRegistry, unused_port: int) -> None:
    settings = ServiceSettings(grpc_port=unused_port, grace_seconds=1)
    loaded = asyncio.Event()
    ended: list[str] = []

    async def stop() -> None:
        ended.append("stop")

    async def run() -> None:
        endpoints = [encoder_endpoint(EchoEncoder())]
        async with running(settings, endpoints, start=_waiting(loaded), stop=stop, registry=registry):
            ended.append("served")

    async with grpc.aio.insecure_channel(f"127.0.0.1:{unused_port}") as channel:
        server = asyncio.create_task(run())
        await asyncio.wait_for(channel.channel_ready(), 5)
        assert [await _health(channel, name) for name in (ENCODER, "")] == [NOT_SERVING, NOT_SERVING]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _encode(channel)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert error_from_rpc(caught.value).reason == "STARTING"
        loaded.set()
        await asyncio.wait_for(server, 60)
    assert ended == ["served", "stop"]


def _waiting(event: asyncio.Event) -> Any:
    async def start() -> None:
        await event.wait()

    return start


async def test_a_start_that_fails_ends_the_server(registry: CollectorRegistry, unused_port: int) -> None:
    settings = ServiceSettings(grpc_port=unused_port, grace_seconds=1)

    async def start() -> None:
        raise FileNotFoundError("models/diorama")

    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="diorama"):
            async with running(settings, [], start=start, registry=registry):
                pytest.fail("must not serve")


async def test_a_taken_port_is_refused_with_what_to_change(
    settings: ServiceSettings, registry: CollectorRegistry
) -> None:
    async with running(settings, [], registry=registry) as first:
        taken = ServiceSettings(grpc_port=first.port)
        with pytest.raises(OSError, match="choose another grpc_port"):
            async with running(taken, [], registry=CollectorRegistry()):
                pytest.fail("must not serve")


async def test_reflection_lists_the_services(settings: ServiceSettings, registry: CollectorRegistry) -> None:
    async with (
        running(settings, [encoder_endpoint(EchoEncoder())], registry=registry) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]), timeout=60)]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {ENCODER, "grpc.health.v1.Health"} <= names


async def test_a_message_over_the_limit_is_refused(registry: CollectorRegistry) -> None:
    settings = ServiceSettings(max_message_mib=1, grace_seconds=1)
    async with (
        running(settings, [encoder_endpoint(EchoEncoder())], registry=registry) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _encode(channel, "x" * (1 << 20))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_metrics_are_served_on_their_own_port_and_closed(
    settings: ServiceSettings, registry: CollectorRegistry
) -> None:
    async with running(settings, [encoder_endpoint(EchoEncoder())], registry=registry) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            await _encode(channel)
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        text = await asyncio.to_thread(_read, url)
    counted = 'grpc_server_handled_total{{grpc_code="{}",grpc_method="{}",grpc_service="{}"}} {}'
    assert counted.format("OK", "Encode", ENCODER, 1.0) in text
    # Prometheus sees an increase only from a value that was there.
    assert counted.format("INTERNAL", "Encode", ENCODER, 0.0) in text
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(_read, url)


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


async def test_a_stop_lets_the_call_in_flight_finish_and_refuses_new_ones(
    settings: ServiceSettings, registry: CollectorRegistry
) -> None:
    may_end = threading.Event()

    def work(stage: Stage) -> None:
        stage.progress(1, 2)
        may_end.wait(60)
        stage.progress(2, 2)

    stopping, stopped = asyncio.Event(), asyncio.Event()
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with running(settings, [encoder_endpoint(EchoEncoder(work))], registry=registry) as server:
            address.set_result(server.address)
            await stopping.wait()
        stopped.set()

    server = asyncio.create_task(run())
    async with grpc.aio.insecure_channel(await address) as channel, grpc.aio.insecure_channel(await address) as late:
        call = rpc.EncoderServiceStub(channel).Encode(encode_request(), timeout=60)
        assert (await anext(aiter(call))).progress.step == 1
        stopping.set()
        await asyncio.sleep(0.2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _encode(late)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not stopped.is_set()
        may_end.set()
        assert [event.progress.step async for event in call if event.HasField("progress")] == [2]
        assert await call.code() is grpc.StatusCode.OK
        await asyncio.wait_for(server, 60)


async def test_work_is_stopped_when_the_grace_is_over(registry: CollectorRegistry) -> None:
    began, stopped = threading.Event(), threading.Event()

    def work(stage: Stage) -> None:
        began.set()
        try:
            while not stopped.wait(0.01):
                stage.raise_if_cancelled()
        finally:
            stopped.set()

    settings = ServiceSettings(grace_seconds=0.2)
    async with running(settings, [encoder_endpoint(EchoEncoder(work))], registry=registry) as server:
        channel = grpc.aio.insecure_channel(server.address)
        call = asyncio.ensure_future(_encode(channel))
        await asyncio.to_thread(began.wait, 5)
    assert stopped.is_set()
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    await channel.close()
