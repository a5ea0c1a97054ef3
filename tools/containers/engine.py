"""podman or docker as a command, with settings under which podman also runs inside a virtual machine or container."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["Engine", "EngineMissingError", "engine"]

# With control groups of version 1 and 2 side by side crun refuses to start anything; runc does.
PODMAN_SETTINGS = """[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class EngineMissingError(Exception):
    """The message says what to install."""


@dataclass(frozen=True)
class Engine:
    """``name``: podman or docker. ``folder``: for its settings, gone with the block of `engine`."""

    name: str
    folder: Path

    def run(self, *arguments: str, seconds: float = 600.0, stdin: str | None = None) -> str:
        """What it wrote to stdout. Raises subprocess.CalledProcessError with ``stderr``."""
        return subprocess.run(
            (self.name, *arguments),
            check=True,
            capture_output=True,
            text=True,
            timeout=seconds,
            input=stdin,
            env=self._environment,
        ).stdout.strip()

    def has_image(self, image: str) -> bool:
        found = subprocess.run(
            (self.name, "image", "inspect", image), check=False, capture_output=True, timeout=60, env=self._environment
        )
        return found.returncode == 0

    def build(self, dockerfile: Path, image: str, context: Path, *options: str, seconds: float = 3600.0) -> None:
        """Shows what happens. Raises subprocess.CalledProcessError."""
        command = (self.name, "build", *self._build_options, *options, "-f", str(dockerfile), "-t", image, str(context))
        subprocess.run(command, check=True, timeout=seconds, env=self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf")}

    @cached_property
    def _build_options(self) -> tuple[str, ...]:
        """Where pip has packages on this machine's disk, or a certificate of its own, a build sees them too."""
        if self.name != "podman":
            return ()
        (self.folder / "pip.conf").write_text(_pip_settings())
        mounts = {self.folder / "pip.conf": "/etc/pip.conf", CERTIFICATES: str(CERTIFICATES)}
        mounts |= {folder: str(folder) for folder in _pip_folders()}
        volumes = [f"--volume={here}:{there}:ro" for here, there in mounts.items() if here.exists()]
        return ("--pull=missing", "--network=host", "--format=docker", *volumes)


@contextmanager
def engine(*names: str) -> Iterator[Engine]:
    """The first of ``names`` that is installed. Raises EngineMissingError."""
    found = next((name for name in names if shutil.which(name)), None)
    if found is None:
        raise EngineMissingError(f"{' or '.join(names)} is not installed: apt-get install podman runc")
    with tempfile.TemporaryDirectory(prefix="soundstage-containers-") as name:
        folder = Path(name)
        (folder / "containers.conf").write_text(PODMAN_SETTINGS if shutil.which("runc") else "")
        yield Engine(found, folder)


def _pip_options() -> dict[str, str]:
    """Option -> value of this machine's pip, of its files and of its environment."""
    options: dict[str, str] = {}
    for path in (Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf"):
        settings = configparser.ConfigParser(interpolation=None)
        settings.read(path)
        options |= dict(settings["global"]) if settings.has_section("global") else {}
    for name in ("find-links", "extra-index-url", "index-url", "constraint", "cert"):
        value = os.environ.get("PIP_" + name.replace("-", "_").upper())
        options |= {name: value} if value else {}
    return options


def _pip_settings() -> str:
    lines = (f"{name} = {' '.join(value.split())}" for name, value in _pip_options().items())
    return "\n".join(["[global]", *lines, ""])


def _pip_folders() -> set[Path]:
    """Folders on this machine's disk that its pip is told of; an index's packages may lie beside it."""
    words = (word.removeprefix("file://") for value in _pip_options().values() for word in value.split())
    paths = (Path(word) for word in words if word.startswith("/") and Path(word) != CERTIFICATES)
    return {path if path.is_dir() and path.name != "simple" else path.parent for path in paths if path.exists()}
