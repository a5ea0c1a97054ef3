"""`make images`: one image a service, and its list of parts (CycloneDX) in build/sbom.

    python -m tools.containers.images [service ...]

With podman or docker. Torch comes without CUDA only where pip finds such a build first; see the Dockerfiles.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from tools.containers.engine import Engine, EngineMissingError, engine

__all__ = ["SERVICES", "build", "image_of"]

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "encoder", "denoiser", "audio", "muxer")
SBOMS = ROOT / "build/sbom"


def image_of(service: str) -> str:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return f"soundstage/{service}:{version}"


def build(docker: Engine, service: str) -> None:
    """Raises subprocess.CalledProcessError."""
    revision = subprocess.run(
        ("git", "-C", str(ROOT), "rev-parse", "HEAD"), check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()
    dockerfile = ROOT / "services" / service / "Dockerfile"
    began = time.monotonic()
    docker.build(dockerfile, image_of(service), ROOT, f"--build-arg=REVISION={revision}")
    size = int(docker.run("image", "inspect", "--format={{.Size}}", image_of(service)))
    seconds = time.monotonic() - began
    print(f"{image_of(service)}: {size / 1e6:.0f} MB, {parts(docker, service)} packages, {seconds:.0f} s", flush=True)


def parts(docker: Engine, service: str) -> int:
    """Takes the list of parts out of the image; how many there are."""
    SBOMS.mkdir(parents=True, exist_ok=True)
    file = SBOMS / f"{service}.cdx.json"
    file.write_text(docker.run("run", "--rm", "--network=none", "--entrypoint=cat", image_of(service), "sbom.cdx.json"))
    return len(json.loads(file.read_text())["components"])


def main(services: list[str]) -> int:
    if unknown := set(services) - set(SERVICES):
        print(f"there is no service {', '.join(sorted(unknown))}: {', '.join(SERVICES)}")
        return 2
    try:
        with engine("podman", "docker") as docker:
            for service in services or SERVICES:
                build(docker, service)
    except EngineMissingError as error:
        print(error)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(map(str, error.cmd[:2]))} failed: {error.stderr or 'see above'}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
