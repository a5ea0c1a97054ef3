"""The Python of the READMEs does what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.plan import REPOSITORY
from tests.e2e.film import read_film
from tests.e2e.studio import Studio

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PORTS = {"encoder": 50051, "denoiser": 50052, "audio": 50053, "muxer": 50054}
"""Those of the READMEs."""
GIVES = {
    "encoder": "conditioning.safetensors",
    "denoiser": "latents.safetensors",
    "audio": "sound.flac",
    "muxer": "video.mp4",
}
SECONDS = 500.0


@pytest.mark.parametrize("service", PORTS)
def test_the_call_of_a_stage_gives_its_artifact(studio: Studio, tmp_path: Path, service: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", read(f"services/{service}/README.md"), re.DOTALL)
    running = {process.name: process.port for process in studio.state.processes()}
    for name, port in PORTS.items():
        code = code.replace(f"127.0.0.1:{port}", f"127.0.0.1:{running[name]}")
    code = re.sub(r"/tmp/(soundstage)?", lambda here: str(studio.state.artifacts) if here[1] else f"{tmp_path}/", code)
    code = re.sub(r"timeout=\d+", f"timeout={SECONDS:g}", code)  # theirs are for a machine that is not busy
    code = code.replace('tenant="acme"', f'tenant="{service}"').replace('"acme/', f'"{service}/')
    assert f"{service}/v1/" in run(code, REPOSITORY)
    assert list((studio.state.artifacts / service / "v1").rglob(GIVES[service]))


def test_the_call_from_code_makes_a_video(studio: Studio, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    (tmp_path / ".state").symlink_to(studio.state.folder)
    assert run(code, tmp_path).splitlines()[-1].startswith("100%")
    assert len(read_film(tmp_path / "waves.mp4").frames) == 24
    assert (tmp_path / "waves.jpg").is_file()


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def run(code: str, folder: Path) -> str:
    """What it prints."""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout
