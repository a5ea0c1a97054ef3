"""The whole stack for a measurement, in a folder of its own, and the memory that its processes take."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deploy.local.plan import STAGES
from deploy.local.processes import Process
from deploy.local.stack import start_stack, stop_stack
from deploy.local.state import State

SAMPLE_SECONDS = 0.25


@contextmanager
def local_stack(*, warm: bool = True) -> Iterator[State]:
    """Temporal and the five services, ready; stopped and their files removed at the end.

    Not ``warm``: a model is loaded by the first video, so that the loading of each stage is timed.
    """
    settings = {} if warm else {f"SOUNDSTAGE_{stage.upper()}_WARM_MODELS": "[]" for stage in STAGES}
    with _environment(settings), tempfile.TemporaryDirectory(prefix="soundstage-bench-") as folder:
        state = State(Path(folder))
        try:
            start_stack(state, end_with_parent=True, say=lambda text: print(f"  {text}", flush=True))
            yield state
        finally:
            stop_stack(state)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


class MemoryWatch:
    """Peak resident memory of each process and of the children it starts, looked at four times a second.

    A service that runs jobs in child processes counts with the sum of the peaks (VmHWM) of those alive at one moment.
    """

    def __init__(self, processes: Iterable[Process]) -> None:
        self._leaders = {process.pid: process.name for process in processes}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)
        self.peaks_mib: dict[str, float] = {}

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(5.0)
        self._look()

    def _watch(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        now = dict.fromkeys(self._leaders.values(), 0.0)
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            try:
                name = self._leaders.get(os.getpgid(pid))
                if name is not None:
                    now[name] += peak_memory_mib(pid)
            except ProcessLookupError:
                continue
        for name, mib in now.items():
            self.peaks_mib[name] = max(self.peaks_mib.get(name, 0.0), mib)


def peak_memory_mib(pid: int) -> float:
    """VmHWM of a process; 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)
