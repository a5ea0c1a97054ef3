"""The Dockerfiles are the same but for the service, and copy what is there. `make test-extras` runs what they hold."""

from __future__ import annotations

import re
import subprocess
import sys
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
    assert f'["optional-dependencies"]["{service}"]' in text
    assert "USER 10001:10001" in text
    assert f'ENTRYPOINT ["python", "-m", "services.{service}"]' in text


def test_a_change_of_our_sources_installs_no_dependencies_anew() -> None:
    """Until they are installed only the lists of them are copied; the final image takes our packages last."""
    _, dependencies, build, final = dockerfile("encoder").split("\nFROM ")
    assert re.findall(r"^COPY (.*)", dependencies, re.MULTILINE) == ["pyproject.toml requirements.lock ./"]
    assert "-r requirements.txt" in dependencies
    assert all(
        "--no-deps" in line for line in (build + final).splitlines() if "pip install" in line or "pip wheel" in line
    )
    copied = re.findall(r"^(?:COPY|RUN|ARG) .*", final, re.MULTILINE)
    assert [line.split()[-1] for line in copied[:2]] == ["/venv", "/app/models"]
    assert "build" in copied[2]


def test_the_lists_of_dependencies_are_read_as_the_build_reads_them(tmp_path: Path) -> None:
    """The line of the Dockerfile, run: each requirement on its own line, as pip takes them."""
    (program,) = re.findall(r"RUN python -c '(.*?)' >", dockerfile("encoder").replace("\\\n", ""), re.DOTALL)
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert said.stdout.splitlines() == [*project["dependencies"], *project["optional-dependencies"]["encoder"]]


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


def test_the_image_of_triton_holds_what_builds_and_fetches_engines() -> None:
    """It was built nowhere; its version, its extra and the files that it asks for are checked."""
    text = (ROOT / "deploy/triton/Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f'image.version="{project["version"]}"' in text
    (extras,) = re.findall(r'"\.\[(\S+)\]"', text)
    assert "triton" in extras.split(",")
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    (image,) = re.findall(r"^FROM (\S+)-py3$", text, re.MULTILINE)
    (version,) = re.findall(r"^ARG TRITON=(\S+)$", text, re.MULTILINE)
    values = (ROOT / "deploy/helm/soundstage/values.yaml").read_text()
    assert f"image: {image.replace('${TRITON}', version)}-py3" in values
    kept = [
        line[1:] for line in (ROOT / "deploy/triton/Dockerfile.dockerignore").read_text().splitlines() if "!" in line
    ]
    assert {"libs", "deploy/models", "deploy/triton", "requirements.lock"} < set(kept)
    assert all((ROOT / path).exists() for path in kept)


def test_what_the_image_of_triton_runs_imports_nothing_that_it_lacks() -> None:
    code = "import sys, deploy.triton.engines, deploy.triton.build; print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=240
    )
    modules = set(said.stdout.split())
    assert not {"services", "client", "training", "deploy.local", "deploy.doctor"} & modules


def test_every_service_says_what_its_image_must_not_hold() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for service, modules in WITHOUT.items():
        names = {re.split(r"[=<>\[]", line)[0].replace("-", "_") for line in extras[service]}
        assert not names & set(modules)
    assert set(WITHOUT) == set(SERVICES)
