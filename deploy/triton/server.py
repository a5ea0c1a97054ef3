"""Runs tritonserver: its command, its environment, and a `with` around it."""

from __future__ import annotations

import os
import sys
import sysconfig
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import free_ports
from deploy.local.processes import Process, start, stop, tail
from deploy.triton.ready import answers_inference
from deploy.triton.wheel import unpacked_server

__all__ = ["Tritonserver", "remove_leftovers", "running_tritonserver", "server_command", "server_environment"]

READY_SECONDS = 600.0
GRACE_SECONDS = 10.0
EXIT_SECONDS = 5
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Tritonserver:
    """A server that runs. address: of its gRPC port; http_port: of its HTTP; metrics_port: `GET /metrics`."""

    address: str
    http_port: int
    metrics_port: int
    process: Process

    def kill(self) -> None:
        """As a machine that goes away does: nobody is told. The processes of its models end with it."""
        stop([self.process], grace_seconds=0)


def server_command(
    repository: Path, *, grpc_port: int, metrics_port: int, name: str, http_port: int | None = None
) -> tuple[str, ...]:
    """Listens on 127.0.0.1, by HTTP only if asked to.

    ``name`` begins the names of the backend's shared memory: `remove_leftovers` takes it.
    """
    server = unpacked_server()
    options = {
        "model-repository": repository,
        "backend-directory": server / "backends",
        "cache-directory": server / "caches",
        "allow-http": "false" if http_port is None else "true",
        "http-address": "127.0.0.1",
        "http-port": http_port or 0,
        "grpc-address": "127.0.0.1",
        "grpc-port": grpc_port,
        "metrics-address": "127.0.0.1",
        "metrics-port": metrics_port,
        "allow-gpu-metrics": "false",
        "exit-timeout-secs": EXIT_SECONDS,
        "backend-config": f"python,shm-region-prefix-name={name}",
    }
    # Without it each model starts its stub twice, once to be asked for a configuration that is written already.
    flags = ("--disable-auto-complete-config",)
    return (str(server / "bin" / "tritonserver"), *flags, *(f"--{key}={value}" for key, value in options.items()))


def server_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The stub takes the environment of the first `python3` on PATH (and ignores PYTHONPATH): that of this Python."""
    libraries = (str(unpacked_server() / "lib"), str(sysconfig.get_config_var("LIBDIR")))
    # Not sys.executable's own folder: in a virtual environment that is a link, and its target has no packages.
    path = (str(Path(sys.prefix) / "bin"), "/usr/bin", "/bin")
    return {**inherited, "PATH": os.pathsep.join(path), "LD_LIBRARY_PATH": os.pathsep.join(libraries)}


@contextmanager
def running_tritonserver(
    repository: Path, folder: Path, *, grace_seconds: float = GRACE_SECONDS
) -> Iterator[Tritonserver]:
    """A server on free ports with every model of ``repository``; it answers real inferences when this yields.

    ``folder`` takes its log. It ends with this process. Raises RuntimeError with the end of its log when it does not
    start.
    """
    name = f"soundstage-{uuid.uuid4().hex[:12]}"
    grpc_port, http_port, metrics_port = free_ports(3)
    command = server_command(repository, grpc_port=grpc_port, metrics_port=metrics_port, name=name, http_port=http_port)
    log = folder / f"{name}.log"
    environment = server_environment(os.environ)
    process = start(name, command, environment, folder=folder, port=grpc_port, log=log, end_with_parent=True)
    try:
        _wait_until_ready(process)
        yield Tritonserver(f"127.0.0.1:{grpc_port}", http_port, metrics_port, process)
    finally:
        stop([process], grace_seconds=grace_seconds)
        remove_leftovers(name)


def remove_leftovers(name: str) -> None:
    """The shared memory that a server leaves behind when it was killed, or one of its stubs."""
    for path in SHARED_MEMORY.glob(f"{name}*"):
        path.unlink(missing_ok=True)


def _wait_until_ready(process: Process) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.is_alive():
        if answers_inference(f"127.0.0.1:{process.port}"):
            return
        time.sleep(0.2)
    what = "was not ready in time" if process.is_alive() else "ended while it started"
    raise RuntimeError(f"tritonserver {what}:\n{tail(Path(process.log), lines=40)}")
