"""What is known about a stack between two commands: a folder with ``address``, ``processes.json``, logs and data."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from deploy.local.processes import Process

__all__ = ["State"]


class State:
    """One folder a stack. Everything in it may be deleted while the stack is down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def records(self) -> Path:
        return self.folder / "records.db"

    @property
    def workflows(self) -> Path:
        return self.folder / "temporal.db"

    @property
    def triton(self) -> Path:
        """The model repository of a tritonserver, written anew at each start."""
        return self.folder / "triton"

    @property
    def address(self) -> str:
        """Of the gateway; empty when no stack was started, or it was stopped."""
        file = self.folder / "address"
        return file.read_text().strip() if file.is_file() else ""

    def make_folders(self) -> None:
        for folder in (self.folder, self.logs, self.artifacts):
            folder.mkdir(parents=True, exist_ok=True)

    def processes(self) -> list[Process]:
        """Those that were started; they need not live any more. A file that cannot be read counts as none."""
        try:
            return [Process(**entry) for entry in json.loads((self.folder / "processes.json").read_text())]
        except (FileNotFoundError, ValueError, TypeError):
            return []

    def write_processes(self, processes: Sequence[Process]) -> None:
        text = json.dumps([asdict(process) for process in processes], indent=2)
        _replace(self.folder / "processes.json", text)

    def write_address(self, address: str) -> None:
        _replace(self.folder / "address", address + "\n")

    def forget(self) -> None:
        for name in ("address", "processes.json"):
            (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One `up` or `down` at a time; a second one waits for the first, whose every wait has a deadline."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)
