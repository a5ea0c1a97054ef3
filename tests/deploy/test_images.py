"""The Dockerfiles are the same but for the service, and copy what is there. `make test-extras` runs what they hold."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tools.extras import WITHOUT

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "encoder", "denoiser", "audio", "muxer")


def dockerfile(service: str) -> str:
    return (ROOT / "services" / service / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_dockerfile(service: str) -> None:
    text = dockerfile(service)
    assert text.replace(service, "encoder") == dockerfile("encoder")
    assert f'".[{service}]"' in text
    assert "USER 10001:10001" in text
    assert f'ENTRYPOINT ["python", "-m", "services.{service}"]' in text


def test_the_version_is_the_projects() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f'image.version="{version}"' in dockerfile("encoder")


def test_what_the_build_needs_is_not_ignored() -> None:
    """pyproject names a README and packages; the wheel holds those of the services and nothing that measures."""
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == {
        "pyproject.toml",
        "requirements.lock",
        "README.md",
        "LICENSE",
        "libs",
        "services",
        "client",
        "deploy/__init__.py",
        "deploy/models",
        "models",
    }
    assert all((ROOT / path).exists() for path in kept)


def test_every_service_says_what_its_image_must_not_hold() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for service, modules in WITHOUT.items():
        names = {re.split(r"[=<>\[]", line)[0].replace("-", "_") for line in extras[service]}
        assert not names & set(modules)
    assert set(WITHOUT) == set(SERVICES)
