"""Ports, processes and state with real, trivial processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from deploy.local import plan as plan_module
from deploy.local import ports as ports_module
from deploy.local import stack
from deploy.local.__main__ import main
from deploy.local.health import NotReadyError
from deploy.local.plan import STAGES, TRITON, Planned, plan
from deploy.local.ports import free_ports
from deploy.local.processes import Process, start, stop, tail
from deploy.local.state import State
from deploy.local.video import stop_stale_runs
from libs.serving import server
from services.gateway.wiring import WORKER_STOP_SECONDS

SLEEP = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
# Starts a child of its own, says its id, and waits.
PARENT = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
SERVER = """
import sys, grpc
from concurrent import futures
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
server = grpc.server(futures.ThreadPoolExecutor(2))
servicer = health.HealthServicer()
servicer.set("", health_pb2.HealthCheckResponse.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
"""
# Refuses every call, and says with which token it came.
ASKING = """
import grpc
from soundstage.video.v1 import video_pb2_grpc as rpc
class Asking:
    def __getattr__(self, name):
        return self.refuse
    def refuse(self, request, context):
        token = dict(context.invocation_metadata()).get("authorization")
        context.abort(grpc.StatusCode.UNAUTHENTICATED, f"shown: {token}")
""" + SERVER.replace("server.add_ins", "rpc.add_VideoServiceServicer_to_server(Asking(), server)\nserver.add_ins")


@pytest.fixture
def begun() -> Iterator[list[Process]]:
    """Whatever a test puts in is stopped after it."""
    processes: list[Process] = []
    yield processes
    stop(processes, grace_seconds=0)


def begin(folder: Path, code: str, *, guarded: bool = False) -> Process:
    command = [sys.executable, "-c", code]
    log = folder / "log"
    return start("x", command, os.environ, folder=folder, port=0, log=log, end_with_parent=guarded)


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def exists(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_free_ports_are_different_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_free_ports_avoid_those_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    (taken, free) = sorted(free_ports(2))
    numbers = iter([taken, taken, free])
    monkeypatch.setattr(ports_module.random, "randint", lambda *_: next(numbers))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken))
        assert free_ports(1) == [free]


def test_a_process_is_stopped_with_its_children(tmp_path: Path, begun: list[Process]) -> None:
    process = begin(tmp_path, PARENT)
    begun.append(process)
    assert within(10, lambda: (tmp_path / "log").read_text().endswith("\n"))
    child = int((tmp_path / "log").read_text())
    assert process.is_alive()
    assert exists(child)
    assert stop([process], grace_seconds=5) == []
    assert not process.is_alive()
    assert within(5, lambda: not exists(child))


def test_a_deaf_process_is_killed_and_named(tmp_path: Path, begun: list[Process]) -> None:
    process = begin(tmp_path, DEAF)
    begun.append(process)
    assert within(10, lambda: "deaf" in (tmp_path / "log").read_text())
    assert stop([process], grace_seconds=0.3) == ["x"]
    assert not process.is_alive()


def test_a_stranger_with_the_same_id_is_left_alone(tmp_path: Path, begun: list[Process]) -> None:
    stranger = begin(tmp_path, SLEEP)
    begun.append(stranger)
    stale = replace(stranger, started="1")
    assert not stale.is_alive()
    assert stop([stale], grace_seconds=0) == []
    assert stranger.is_alive()


def test_a_process_that_ended_at_once_is_not_alive(tmp_path: Path) -> None:
    process = begin(tmp_path, "print('broken')")
    assert within(10, lambda: not process.is_alive())
    assert tail(tmp_path / "log") == "broken"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_guarded_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    launcher = f"""
import os, sys, time
from pathlib import Path
from deploy.local.processes import start
command = [sys.executable, "-c", {SLEEP!r}]
here = Path({str(tmp_path)!r})
child = start("x", command, os.environ, folder=here, port=0, log=here / "log", end_with_parent=True)
print(child.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    assert exists(child)
    parent.kill()
    parent.wait(60)
    parent.stdout.close()
    assert within(10, lambda: not exists(child))


def test_state_is_written_read_and_forgotten(tmp_path: Path) -> None:
    state = State(tmp_path / "new")
    assert (state.address, state.processes()) == ("", [])
    state.make_folders()
    processes = [Process("encoder", 1, "2", 3, "log")]
    state.write_processes(processes)
    state.write_address("127.0.0.1:3")
    assert (State(tmp_path / "new").address, State(tmp_path / "new").processes()) == ("127.0.0.1:3", processes)
    (state.folder / "processes.json").write_text("[{")
    assert state.processes() == []
    state.forget()
    assert state.address == ""


def test_the_plan_wires_every_service(tmp_path: Path) -> None:
    planned = {part.name: part for part in plan(State(tmp_path), {"SOUNDSTAGE_MUXER_LOG_LEVEL": "DEBUG", "HOME": "/h"})}
    assert list(planned) == ["temporal", *STAGES, "gateway"]
    assert len({part.port for part in planned.values()}) == 6
    gateway = planned["gateway"].environment
    for name in STAGES:
        assert gateway[f"SOUNDSTAGE_GATEWAY_{name.upper()}_ADDRESS"] == f"127.0.0.1:{planned[name].port}"
        assert planned[name].environment[f"SOUNDSTAGE_{name.upper()}_GRPC_PORT"] == str(planned[name].port)
        assert (
            planned[name].environment[f"SOUNDSTAGE_{name.upper()}_ARTIFACTS_URL"] == (tmp_path / "artifacts").as_uri()
        )
        assert int(planned[name].environment["OMP_NUM_THREADS"]) >= 1
    assert gateway["SOUNDSTAGE_GATEWAY_TEMPORAL_ADDRESS"] == f"127.0.0.1:{planned['temporal'].port}"
    assert planned["muxer"].environment["SOUNDSTAGE_MUXER_LOG_LEVEL"] == "DEBUG"


def test_the_plan_with_triton_starts_it_before_who_uses_it(tmp_path: Path) -> None:
    planned = plan(State(tmp_path), {}, triton=True)
    names = [part.name for part in planned]
    assert set(names) == {"temporal", TRITON, *STAGES, "gateway"}
    assert names[-1] == "gateway"
    server = planned[names.index(TRITON)]
    for name in ("denoiser", "muxer"):
        part = planned[names.index(name)]
        assert part.needs == (TRITON,)
        assert names.index(TRITON) < names.index(name)
        addresses = part.environment[f"SOUNDSTAGE_{name.upper()}_TRITON_ADDRESSES"]
        assert json.loads(addresses) == {"*": [f"127.0.0.1:{server.port}"]}
    assert f"--repository={tmp_path / 'triton'}" in server.command


def test_settings_from_outside_win_over_defaults_but_not_over_the_wiring(tmp_path: Path) -> None:
    outside = {
        "SOUNDSTAGE_GATEWAY_ARTIFACTS_URL": "s3://bucket",
        "SOUNDSTAGE_GATEWAY_ENCODER_ADDRESS": "elsewhere:1",
        "OMP_NUM_THREADS": "1",
    }
    gateway = plan(State(tmp_path), outside)[-1].environment
    assert gateway["SOUNDSTAGE_GATEWAY_ARTIFACTS_URL"] == "s3://bucket"
    assert gateway["SOUNDSTAGE_GATEWAY_ENCODER_ADDRESS"].startswith("127.0.0.1:")
    assert gateway["OMP_NUM_THREADS"] == "1"


def planned_server(name: str, code: str = SERVER) -> Planned:
    (port,) = free_ports(1)
    return Planned(name, (sys.executable, "-c", code, str(port)), dict(os.environ), port)


def test_a_stack_starts_is_found_and_stops(tmp_path: Path) -> None:
    parts = [planned_server("encoder"), planned_server("gateway")]
    state = State(tmp_path)
    said: list[str] = []
    try:
        address = stack.start_stack(state, end_with_parent=True, say=said.append, planned=lambda *_: parts)
        assert address == f"127.0.0.1:{parts[-1].port}" == state.address
        assert stack.is_up(State(tmp_path))
        assert said[-1] == "gateway is ready"
        os.kill(state.processes()[0].pid, signal.SIGKILL)
        assert within(5, lambda: not stack.is_up(state))
    finally:
        processes = state.processes()
        stack.stop_stack(state)
    assert len(processes) == 2
    assert not any(process.is_alive() for process in processes)
    assert state.address == ""


def test_a_video_shows_its_token(tmp_path: Path) -> None:
    state = State(tmp_path)
    try:
        stack.start_stack(
            state, end_with_parent=True, say=print, planned=lambda *_: [planned_server("gateway", ASKING)]
        )
        words = ["--state", str(tmp_path), "video", "--prompt", "a campfire", "--out", str(tmp_path / "a.mp4")]
        answer = CliRunner().invoke(main, words, env={"SOUNDSTAGE_TOKEN": "key-1"})
    finally:
        stack.stop_stack(state)
    assert answer.exit_code == 1
    assert "shown: Bearer key-1" in answer.output


def test_what_is_wrong_is_named_as_it_was_typed(tmp_path: Path) -> None:
    words, missing = ["--state", str(tmp_path), "video", "--prompt", "a campfire"], str(tmp_path / "missing.png")
    for given, typed in ((["--image", missing], {}), ([], {"SOUNDSTAGE_VIDEO_IMAGE": missing})):
        answer = CliRunner().invoke(main, [*words, *given], env=typed)
        assert answer.exit_code == 2
        assert "'--image' (in make video: IMAGE)" in answer.output
        assert "does not exist" in answer.output
    (tmp_path / "file").touch()
    answer = CliRunner().invoke(main, words, env={"SOUNDSTAGE_VIDEO_OUT": str(tmp_path / "file" / "a.mp4")})
    assert answer.exit_code == 2
    assert "'--out' (in make video: OUT)" in answer.output


def test_services_have_the_time_that_they_need_to_stop() -> None:
    """Whoever is killed while it stops leaves its worker's lease, and a file that it was writing, to others."""
    unwinding = 3 * server._UNWIND_SECONDS  # see `server._stop`
    assert plan_module.GRACE_SECONDS + max(unwinding, WORKER_STOP_SECONDS) < stack.GRACE_SECONDS


def test_a_service_that_ends_takes_the_start_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [planned_server("encoder"), planned_server("gateway", "raise SystemExit('no models/diorama here')")]
    begun: list[Process] = []
    real = State.write_processes
    monkeypatch.setattr(State, "write_processes", lambda self, p: (begun.extend(p), real(self, p)))
    with pytest.raises(NotReadyError, match=r"(?s)gateway ended.*no models/diorama here"):
        stack.start_stack(State(tmp_path), end_with_parent=True, say=print, planned=lambda *_: parts)
    assert begun
    assert not any(process.is_alive() for process in begun)
    assert State(tmp_path).processes() == []


def test_a_service_that_stays_silent_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "READY_SECONDS", 0.5)
    with pytest.raises(NotReadyError, match="encoder was not ready"):
        stack.start_stack(
            State(tmp_path), end_with_parent=True, say=print, planned=lambda *_: [planned_server("encoder", SLEEP)]
        )


def test_stale_runs_are_stopped_and_removed(tmp_path: Path, begun: list[Process]) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(60)
    mine, stale = State(tmp_path / f"video-{os.getpid()}"), State(tmp_path / f"video-{dead.pid}")
    for state in (mine, stale):
        state.make_folders()
    begun.append(begin(stale.folder, SLEEP))
    stale.write_processes(begun)
    stop_stale_runs(State(tmp_path))
    assert not begun[0].is_alive()
    assert [path.name for path in tmp_path.iterdir()] == [mine.folder.name]
