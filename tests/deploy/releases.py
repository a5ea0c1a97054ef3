"""Renderings of earlier releases, recorded: `make release-snapshot COMMIT=v0.2.0`.

One file a commit, with what that commit's chart made of its own value files. Recordings stay: they stand for what is
installed somewhere. Record one with each release.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.deploy.rendering import CHART, VALUE_FILES, Manifest, template

ROOT = Path(__file__).resolve().parents[2]
RELEASES = Path(__file__).with_name("releases")


def recorded() -> list[str]:
    return sorted(path.name.removesuffix(".json.gz") for path in RELEASES.glob("*.json.gz"))


def load(release: str) -> dict[str, list[Manifest]]:
    """Name of value files, as in VALUE_FILES -> manifests."""
    renderings: dict[str, list[Manifest]] = json.loads(gzip.decompress((RELEASES / f"{release}.json.gz").read_bytes()))
    return renderings


def record(commit: str) -> Path:
    """Named after the commit's tag, or its hash where it has none. Raises subprocess.CalledProcessError."""
    name = _git("describe", "--tags", "--always", "--abbrev=7", commit).decode().strip()
    chart = str(CHART.relative_to(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, chart))) as archive:
            archive.extractall(folder, filter="data")
        renderings = {of: template(Path(folder) / chart, files) for of, files in VALUE_FILES.items()}
    file = RELEASES / f"{name}.json.gz"
    file.write_bytes(gzip.compress(json.dumps(renderings, sort_keys=True).encode(), mtime=0))
    return file


def _git(*arguments: str) -> bytes:
    return subprocess.run(("git", "-C", str(ROOT), *arguments), check=True, capture_output=True, timeout=60).stdout


if __name__ == "__main__":
    print(record(sys.argv[1]).relative_to(ROOT))  # noqa: T201  # a command
