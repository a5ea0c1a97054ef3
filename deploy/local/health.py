"""Waits until a server answers SERVING, or says why it will not."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["NotReadyError", "is_serving", "wait_until", "wait_until_serving"]

POLL_SECONDS = 0.2
CALL_SECONDS = 2.0


class NotReadyError(Exception):
    """A process ended or stayed silent. The message holds the end of its log."""


def is_serving(port: int, service: str = "", *, timeout_seconds: float = CALL_SECONDS) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def wait_until_serving(port: int, service: str, *, deadline: float, check_alive: Callable[[], None]) -> bool:
    """False at ``deadline`` (of time.monotonic). ``check_alive`` is called between looks and may raise."""
    return wait_until(lambda: is_serving(port, service), deadline=deadline, check_alive=check_alive)


def wait_until(answers: Callable[[], bool], *, deadline: float, check_alive: Callable[[], None]) -> bool:
    """False at ``deadline`` (of time.monotonic). ``check_alive`` is called between looks and may raise."""
    while time.monotonic() < deadline:
        check_alive()
        if answers():
            return True
        time.sleep(POLL_SECONDS)
    return False
