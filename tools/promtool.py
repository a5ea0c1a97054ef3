"""The real promtool for checks on this machine, out of Debian's package prometheus, of which nothing is installed.

`python -m tools.promtool` says where it is, and brings it on the first call. Where there is no apt-get it is taken from
PATH. Any version will do: Debian takes a package back when it has a newer one, so that none can be pinned; apt checks
its signature.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tools.programs import kept

DOWNLOAD_SECONDS = 600.0


def promtool() -> Path:
    """Raises FileNotFoundError where it is not to be had, saying what to install."""
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        return kept("promtool", _bring)
    if found := shutil.which("promtool"):
        return Path(found)
    raise FileNotFoundError("promtool is not here: install Prometheus from prometheus.io/download")


def _bring(folder: Path) -> Path:
    """With package lists of its own: the machine's may be missing or old, and only root may renew them."""
    for needed in ("lists/partial", "cache/archives/partial"):
        (folder / needed).mkdir(parents=True)
    own = (f"Dir::State::Lists={folder}/lists", f"Dir::Cache={folder}/cache", "APT::Sandbox::User=")
    apt = ["apt-get", "--quiet", *(word for option in own for word in ("-o", option))]
    for command in ([*apt, "update"], [*apt, "download", "prometheus"]):
        _run(command, folder)
    (package,) = folder.glob("*.deb")
    _run(["dpkg-deb", "--extract", str(package), str(folder / "package")], folder)
    return folder / "package/usr/bin/promtool"


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, timeout=DOWNLOAD_SECONDS, capture_output=True, text=True)
    if done.returncode:
        raise FileNotFoundError(f"promtool is not to be had: {' '.join(command[-2:])}: {done.stderr.strip()}")


if __name__ == "__main__":
    print(promtool())
