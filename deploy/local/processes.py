"""Processes that are started, recognised and stopped, also by another run of this program than the one that began them.

A process is known by its id *and* the moment it started, so that a stale record never hits a stranger that was given
the same id. Each one leads a process group: what it starts itself is stopped with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "start", "stop", "tail"]

GUARD = Path(__file__).with_name("guard.py")
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Process:
    """name: for people. started: the system's own words for when it started, only compared."""

    name: str
    pid: int
    started: str
    port: int
    log: str

    def is_alive(self) -> bool:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # an ended child of ours stays a zombie until it is asked for
        return bool(self.started) and _started(self.pid) == self.started


def start(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path,
    port: int,
    log: Path,
    end_with_parent: bool,
) -> Process:
    """Starts ``command`` in ``folder`` with its output in ``log``.

    end_with_parent: it is killed when this process dies, however it dies.
    """
    if end_with_parent:
        command = [sys.executable, "-S", str(GUARD), str(os.getpid()), *command]
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # Its end is looked for by `is_alive`; Popen would complain about a child that outlives it.
    child.returncode = 0
    return Process(name, child.pid, _started(child.pid), port, str(log))


def stop(processes: Sequence[Process], *, grace_seconds: float) -> list[str]:
    """SIGTERM to all, after the grace SIGKILL to what is left of their groups. Returns the names of those killed."""
    asked = [process for process in processes if process.is_alive()]
    for process in asked:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline and any(process.is_alive() for process in asked):
        time.sleep(POLL_SECONDS)
    killed = [process.name for process in asked if process.is_alive()]
    for process in asked:
        _signal_group(process, signal.SIGKILL)
    _wait_until_gone(asked)
    return killed


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log; a hint where it is empty."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    return "\n".join(text.splitlines()[-lines:]) or "(it wrote nothing)"


def _signal_group(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _wait_until_gone(processes: Sequence[Process]) -> None:
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline and any(process.is_alive() for process in processes):
        time.sleep(POLL_SECONDS)


def _started(pid: int) -> str:
    """Empty for a process that is not there or has ended."""
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():  # not Linux
        command = ["ps", "-o", "lstart=,stat=", "-p", str(pid)]
        words = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.split()
        return "" if not words or words[-1].startswith("Z") else " ".join(words[:-1])
    try:
        # The name, in brackets, may hold anything; state and start time are the 1st and 20th field after it.
        fields = stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
