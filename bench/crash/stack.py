"""A gateway of real processes for the crash matrix: Temporal, apis, workers, light stages, a database and a store."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from soundstage.video.v1 import video_pb2 as pb
from soundstage.video.v1 import video_pb2_grpc as rpc

from bench.crash.journal import Journal
from bench.crash.members import Member
from deploy.local.ports import free_ports
from tests.support.postgres import PostgresServer, serving_postgres
from tests.support.s3 import S3Process, serving_s3
from tests.support.stage_process import Holds
from tests.support.temporal import temporal_command

SERVICES = ("encoder", "denoiser", "audio", "muxer")
TERMINAL = (pb.STATE_SUCCEEDED, pb.STATE_FAILED, pb.STATE_CANCELLED)
CALL_SECONDS = 10.0
ACCEPT_SECONDS = 90.0
PAUSE_SECONDS = 0.05
SMALL_DISK_MIB = 8
GATEWAY = {
    "GRACE_SECONDS": "1",
    "WORKER_SILENCE_SECONDS": "3",
    "RETRY_FIRST_SECONDS": "0.2",
    "STAGE_SILENCE_SECONDS": "30",
    "SWEEP_EVERY_SECONDS": "1",
    "SWEEP_QUIET_SECONDS": "3",
    "MAX_CONCURRENT_STAGES": "8",
    "MAX_QUEUED_VIDEOS": "1000",
    "MAX_RUNNING_VIDEOS": "100",
    "REQUESTS_PER_SECOND": "1000",
    "CHARGE_CREDITS": "true",
    "FIRST_CREDITS": "1000000",
}
"""Everything quicker than in production, so that a case takes seconds; limits of a tenant out of the way. Videos cost
credits."""


@dataclass(frozen=True)
class Plan:
    """What a stack is made of."""

    database: str
    """sqlite or postgresql."""
    apis: int = 2
    workers: int = 1
    store: str = "folder"
    """folder or s3."""
    small_disk: bool = False
    """Artifacts are on a disk of their own that can be filled."""
    records_on_it: bool = False
    """SQLite's records as well."""
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Stack:
    folder: Path
    database_url: str
    members: dict[str, Member]
    journal: Journal
    holds: Holds
    postgres: PostgresServer | None = None
    s3: S3Process | None = None
    disk: Path | None = None
    _channels: dict[str, grpc.Channel] = field(default_factory=dict)

    def create(self, request_id: str = "") -> str:
        """Asks until one api acknowledges, as a caller does: its id. What is returned is accepted."""
        request = pb.CreateVideoRequest(request_id=request_id or str(uuid.uuid4()))
        request.spec.prompt = "a campfire on a beach at night"
        deadline = time.monotonic() + ACCEPT_SECONDS
        while True:
            for stub in self._stubs():
                try:
                    return stub.CreateVideo(request, timeout=CALL_SECONDS).video.name.removeprefix("videos/")
                except grpc.RpcError as error:
                    last = error
                    if time.monotonic() >= deadline:
                        raise TimeoutError(f"no api accepts a video: {last}") from error
            time.sleep(PAUSE_SECONDS)

    def try_create(self, api: str, request_id: str) -> str:
        """One call to one api; empty when it fails."""
        request = pb.CreateVideoRequest(request_id=request_id)
        request.spec.prompt = "a campfire on a beach at night"
        try:
            answer = self._stub(api).CreateVideo(request, timeout=CALL_SECONDS)
        except grpc.RpcError:
            return ""
        return answer.video.name.removeprefix("videos/")

    def cancel(self, video_id: str) -> None:
        request = pb.CancelVideoRequest(name=f"videos/{video_id}")
        next(self._stubs()).CancelVideo(request, timeout=CALL_SECONDS)

    def get(self, video_id: str) -> pb.Video | None:
        """What any api says; None when none answers."""
        for stub in self._stubs():
            try:
                return stub.GetVideo(pb.GetVideoRequest(name=f"videos/{video_id}"), timeout=CALL_SECONDS).video
            except grpc.RpcError:
                continue
        return None

    def wait(self, video_id: str, seconds: float) -> pb.Video | None:
        """The video at its end, or what is last known of it after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            video = self.get(video_id)
            if (video and video.state in TERMINAL) or time.monotonic() >= deadline:
                return video
            time.sleep(PAUSE_SECONDS)

    def of_role(self, role: str) -> list[Member]:
        return [member for name, member in self.members.items() if name.startswith(role)]

    def start(self, names: Sequence[str]) -> None:
        """At once, and waits for all."""
        for name in names:
            self.members[name].launch()
        for name in names:
            self.members[name].wait()

    def repair(self) -> None:
        """Everything as before a case, whatever became of it."""
        self.holds.lift_all()
        for member in self.members.values():
            if member.is_alive():
                member.thaw()
        self.heal()

    def heal(self) -> None:
        """Starts what is dead; waits for all but the apis, of which one is always there."""
        for member in self.members.values():
            if not member.is_alive():
                member.launch()
        for name, member in self.members.items():
            if not name.startswith("api"):
                member.wait()

    def alive(self) -> frozenset[int]:
        return frozenset(member.pid for member in self.members.values() if member.is_alive())

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()
        for name in [*(n for n in self.members if n != "temporal"), "temporal"]:
            self.members[name].end()

    def _stubs(self) -> Iterator[rpc.VideoServiceStub]:
        for member in self.of_role("api"):
            if member.is_alive():
                yield self._stub(member.name)

    def _stub(self, api: str) -> rpc.VideoServiceStub:
        if api not in self._channels:
            options = [("grpc.enable_retries", 0), ("grpc.max_reconnect_backoff_ms", 500)]
            self._channels[api] = grpc.insecure_channel(f"127.0.0.1:{self.members[api].port}", options=options)
        return rpc.VideoServiceStub(self._channels[api])


@dataclass(frozen=True)
class Resources:
    postgres: PostgresServer | None
    s3: S3Process | None
    disk: Path | None


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk in memory. Raises PermissionError for who may not mount one."""
    _made(folder)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_MIB}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False, timeout=30).returncode:
        raise PermissionError(f"a disk that can be filled needs the right to mount one: {' '.join(command)}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


@contextmanager
def running_stack(plan: Plan, folder: Path) -> Iterator[Stack]:
    """Everything started and ready; stopped at the end, whatever happened."""
    with ExitStack() as resources:
        postgres = resources.enter_context(serving_postgres()) if plan.database == "postgresql" else None
        s3 = resources.enter_context(serving_s3(_made(folder / "s3"))) if plan.store == "s3" else None
        disk = resources.enter_context(small_disk(folder / "disk")) if plan.small_disk else None
        stack = _stack(plan, folder, Resources(postgres, s3, disk))
        resources.callback(stack.close)
        stack.start([name for name in stack.members if not name.startswith(("api", "worker"))])
        stack.start([name for name in stack.members if name.startswith(("api", "worker"))])
        yield stack


def _stack(plan: Plan, folder: Path, given: Resources) -> Stack:
    records = given.disk if given.disk and plan.records_on_it else folder
    url = given.postgres.create("gateway") if given.postgres else f"sqlite:///{records / 'gateway.db'}"
    holds = Holds(_made(folder / "holds"))
    stack = Stack(folder, url, {}, Journal(folder), holds, given.postgres, given.s3, given.disk)
    gateways = [f"api-{n}" for n in range(plan.apis)] + [f"worker-{n}" for n in range(plan.workers)]
    names = ["temporal", *SERVICES, *gateways]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    store = _store(given.s3, given.disk or folder)

    def add(name: str, command: Sequence[str], environment: Mapping[str, str], *, grpc: bool = True) -> None:
        stack.members[name] = Member(name, command, environment, ports[name], folder, grpc=grpc)

    add("temporal", temporal_command(folder, ports["temporal"]), {}, grpc=False)
    for name in SERVICES:
        own = {"SERVICE": name, "JOURNAL": str(stack.journal.path(name)), "HOLDS_DIR": str(stack.holds.folder)}
        add(name, _python("tests.support.stage_process"), _environment("LIGHT", {**store, **own}, ports[name]))
    common = {
        **GATEWAY,
        **store,
        **{f"{name.upper()}_ADDRESS": f"127.0.0.1:{ports[name]}" for name in SERVICES},
        "DATABASE_URL": url,
        "TEMPORAL_ADDRESS": f"127.0.0.1:{ports['temporal']}",
        **plan.settings,
    }
    for name in gateways:
        own = {**common, "ROLE": name.partition("-")[0]}
        add(name, _python("services.gateway"), _environment("GATEWAY", own, ports[name]))
    return stack


def _store(s3: S3Process | None, disk: Path) -> dict[str, str]:
    if s3 is None:
        return {"ARTIFACTS_URL": (disk / "artifacts").as_uri()}
    return {"ARTIFACTS_URL": s3.url("videos"), "S3_ACCESS_KEY": s3.access_key, "S3_SECRET_KEY": s3.secret_key}


def _environment(service: str, settings: Mapping[str, str], port: int) -> dict[str, str]:
    given = {f"SOUNDSTAGE_{service}_{name}": value for name, value in settings.items()}
    return {**given, f"SOUNDSTAGE_{service}_GRPC_PORT": str(port), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
