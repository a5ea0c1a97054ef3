"""Which processes make up Soundstage on one machine, and what each is told."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import free_ports
from deploy.local.state import State

__all__ = ["MODELS", "REPOSITORY", "STAGES", "TRITON", "Planned", "plan", "triton_memory"]

REPOSITORY = Path(__file__).resolve().parent.parent.parent
MODELS = REPOSITORY / "models"
STAGES = ("encoder", "denoiser", "audio", "muxer")
TRITON = "triton"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
REMOTE = ("denoiser", "muxer")
"""Who uses Triton where there is one."""
GRACE_SECONDS = 5
OWN_DEFAULTS = {"denoiser": {"STEPS_AT_ONCE": "1"}}
"""Without a GPU one video fills the machine (decision 0028); the start need not wait to find that out."""
STAGE_AWAY_ATTEMPTS = 8
"""A minute and a half: nobody starts a service anew here that has died."""


@dataclass(frozen=True)
class Planned:
    """A process to start. needs: names that must be ready before."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    port: int
    needs: tuple[str, ...] = ()


def plan(state: State, inherited: Mapping[str, str], triton: bool = False) -> list[Planned]:
    """All processes with ports of their own; the gateway is last. ``inherited`` settings win over the defaults here.

    triton: a tritonserver too, which denoiser and muxer then use.
    """
    names = ("temporal", *STAGES, "gateway", *((TRITON,) if triton else ()))
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    base = {**_thread_counts(), "PYTHONUNBUFFERED": "1", **inherited}
    temporal = Planned("temporal", _temporal_command(state, ports["temporal"]), base, ports["temporal"])
    stages = [_service(name, ports[name], state, base, {}) for name in STAGES if name not in REMOTE or not triton]
    if triton:
        stages += [_triton(ports[TRITON], state, base), *(_with_triton(name, ports, state, base) for name in REMOTE)]
    gateway = _service("gateway", ports["gateway"], state, base, _gateway_settings(state, ports), needs=("temporal",))
    return [temporal, *stages, gateway]


def _service(
    name: str,
    port: int,
    state: State,
    base: Mapping[str, str],
    wiring: Mapping[str, str],
    needs: tuple[str, ...] = (),
) -> Planned:
    """wiring: settings that name the other processes, which a setting from outside cannot know better."""
    defaults = {
        "GRACE_SECONDS": str(GRACE_SECONDS),
        "ARTIFACTS_URL": state.artifacts.as_uri(),
        "MODELS_DIR": str(MODELS),
        **OWN_DEFAULTS.get(name, {}),
    }
    prefix = f"SOUNDSTAGE_{name.upper()}_"
    environment = {
        **{prefix + field: value for field, value in defaults.items()},
        **base,
        **{prefix + field: value for field, value in wiring.items()},
        prefix + "GRPC_PORT": str(port),
    }
    return Planned(name, (sys.executable, "-m", f"services.{name}"), environment, port, needs)


def _with_triton(name: str, ports: Mapping[str, int], state: State, base: Mapping[str, str]) -> Planned:
    wiring = {"TRITON_ADDRESSES": json.dumps({"*": [f"127.0.0.1:{ports[TRITON]}"]})}
    return _service(name, ports[name], state, base, wiring, needs=(TRITON,))


def _triton(port: int, state: State, base: Mapping[str, str]) -> Planned:
    """Who calls waits while Triton works, so each may have every core."""
    (metrics_port,) = free_ports(1)
    options = {
        "models": MODELS,
        "repository": state.triton,
        "grpc-port": port,
        "metrics-port": metrics_port,
        "name": triton_memory(state),
    }
    command = (sys.executable, "-m", "deploy.triton", *(f"--{key}={value}" for key, value in options.items()))
    return Planned(TRITON, command, base, port)


def triton_memory(state: State) -> str:
    """How the names of the shared memory of this stack's tritonserver begin: it may have to be removed after it."""
    return f"soundstage-{hashlib.sha256(str(state.folder).encode()).hexdigest()[:12]}"


def _gateway_settings(state: State, ports: Mapping[str, int]) -> dict[str, str]:
    stages = {f"{name.upper()}_ADDRESS": f"127.0.0.1:{ports[name]}" for name in STAGES}
    return {
        **stages,
        "DATABASE_URL": f"sqlite+aiosqlite:///{state.records}",
        "TEMPORAL_ADDRESS": f"127.0.0.1:{ports['temporal']}",
        "STAGE_AWAY_ATTEMPTS": str(STAGE_AWAY_ATTEMPTS),
    }


def _temporal_command(state: State, port: int) -> tuple[str, ...]:
    beside_python = Path(sys.executable).with_name("temporal")
    program = str(beside_python) if beside_python.exists() else shutil.which("temporal")
    if program is None:
        raise FileNotFoundError("Temporal's program is not installed: run `make setup`")
    where = ("--ip", "127.0.0.1", "--port", str(port), "--db-filename", str(state.workflows))
    return (program, "server", "start-dev", "--headless", "--log-level", "warn", *where)


def _thread_counts() -> dict[str, str]:
    """One video is in one stage at a time, so each service may use every core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return dict.fromkeys(THREAD_VARIABLES, str(cores))
