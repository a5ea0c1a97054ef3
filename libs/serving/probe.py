"""`python -m libs.serving.probe` asks a server for its health where nobody else can: a kubelet shows no certificate.

Ends with 0 when the server says SERVING, with 1 and a word about why not otherwise.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["main"]

_TRY_SECONDS = 5.0
_PAUSE_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    deadline = time.monotonic() + options.seconds
    with _channel(options) as channel:
        while (why := _ask(channel, min(_TRY_SECONDS, options.seconds))) and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)
    if why:
        sys.stderr.write(f"{options.address}: {why}\n")
    return int(bool(why))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="probe", description="asks a server for its health")
    parser.add_argument("--address", default="127.0.0.1:50051", help="host:port")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to ask")
    parser.add_argument("--name", default="", help="name in the server's certificate; TLS with it")
    parser.add_argument("--ca", type=Path, help="authority of that certificate, PEM; without it, the system's")
    parser.add_argument("--cert", type=Path, help="certificate to show, PEM")
    parser.add_argument("--key", type=Path, help="its key, PEM")
    return parser


def _channel(options: argparse.Namespace) -> grpc.Channel:
    if not options.name:
        return grpc.insecure_channel(options.address)
    ca, key, cert = (path.read_bytes() if path and path.exists() else None for path in _files(options))
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    return grpc.secure_channel(options.address, credentials, [("grpc.ssl_target_name_override", options.name)])


def _files(options: argparse.Namespace) -> tuple[Path | None, Path | None, Path | None]:
    """A public certificate's secret may hold no ca.crt: then the system's authorities know it."""
    return options.ca, options.key, options.cert


def _ask(channel: grpc.Channel, seconds: float) -> str:
    """Nothing when it serves, or why not."""
    request = health_pb2.HealthCheckRequest()
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=seconds)
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return "" if status == "SERVING" else f"{status}"


if __name__ == "__main__":
    sys.exit(main())
