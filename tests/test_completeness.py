"""What must not be forgotten: each of these fails when a part of the whole is missing."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from google.protobuf.descriptor import ServiceDescriptor

import libs.errors
from libs.errors import SoundstageError
from libs.serving import ServiceSettings
from libs.serving.status import STATUS_CODES
from training import captions
from training.scenes import FAMILIES

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("gateway", "encoder", "denoiser", "audio", "muxer")
AREAS = {"video": "gateway"}
"""Proto area -> service, where they have different names."""
SERVICE_FILES = ("README.md", "__main__.py", "settings.py", "servicer.py", "convert.py", "metrics.py")
LIBRARIES = ("artifacts", "catalog", "errors", "families", "serving", "triton")
MODEL_PARTS = ("soundstage.json", "model_index.json", "transformer", "vae", "scheduler", "sound", "camera")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def proto_services() -> list[ServiceDescriptor]:
    found = []
    for proto in sorted((ROOT / "proto").rglob("*.proto")):
        name = proto.relative_to(ROOT / "proto").with_suffix("").as_posix().replace("/", ".")
        found += importlib.import_module(f"{name}_pb2").DESCRIPTOR.services_by_name.values()
    return found


def service_of(service: ServiceDescriptor) -> str:
    area = service.full_name.split(".")[1]
    return AREAS.get(area, area)


def read(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def settings_class(service: str) -> type[ServiceSettings]:
    module = importlib.import_module(f"services.{service}.settings")
    (found,) = (kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__)
    assert issubclass(found, ServiceSettings)
    return found


def make_targets() -> set[str]:
    lines = read("Makefile").splitlines()
    return {line.split(":")[0] for line in lines if re.match(r"[a-z][a-z0-9-]*:.*## ", line)}


def test_every_area_of_the_protos_has_a_service() -> None:
    assert {service_of(service) for service in proto_services()} == set(SERVICES)


@pytest.mark.parametrize("service", proto_services(), ids=lambda service: service.name)
def test_every_rpc_has_a_method_and_a_line_in_the_readme(service: ServiceDescriptor) -> None:
    module = importlib.import_module(f"services.{service_of(service)}.servicer")
    stub = f"{service.name}Servicer"
    (servicer,) = (
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and stub in [base.__name__ for base in kind.__mro__[1:]]
    )
    methods = {method.name for method in service.methods}
    assert methods <= set(vars(servicer))
    readme = read("services", service_of(service), "README.md")
    assert [name for name in sorted(methods) if f"`{name}`" not in readme] == []


def test_every_error_has_a_row_in_the_table() -> None:
    kinds = [getattr(libs.errors, name) for name in libs.errors.__all__]
    errors = {kind for kind in kinds if issubclass(kind, SoundstageError)} - {SoundstageError}
    assert errors == set(STATUS_CODES)


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_files(service: str) -> None:
    folder = ROOT / "services" / service
    assert [name for name in SERVICE_FILES if not (folder / name).is_file()] == []
    assert list((ROOT / "tests" / "services" / service).glob("test_*.py"))


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_shows_a_call(service: str) -> None:
    assert re.search(r"Stub\(channel\)", read("services", service, "README.md"))


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_has_a_row_in_the_readme(service: str) -> None:
    rows = "\n".join(line for line in read("services", service, "README.md").splitlines() if line.startswith("|"))
    kind = settings_class(service)
    own = [name for name in vars(kind)["__annotations__"] if name != "model_config"]
    prefix = kind.model_config["env_prefix"]
    assert prefix == f"SOUNDSTAGE_{service.upper()}_"
    missing = [name for name in own if f"`{prefix}{name.upper()}`" not in rows and f"`{name}`" not in rows]
    assert missing == []


@pytest.mark.parametrize("service", SERVICES)
def test_settings_of_every_service_are_in_its_readme_or_pointed_at(service: str) -> None:
    readme = read("services", service, "README.md")
    common = ServiceSettings.model_fields
    assert "libs/serving/settings.py" in readme or all(f"`{name}`" in readme for name in common)


@pytest.mark.parametrize(
    "file",
    [f"services/{name}/settings.py" for name in SERVICES] + ["libs/serving/settings.py", "libs/triton/settings.py"],
)
def test_every_setting_is_explained_below_it(file: str) -> None:
    (kind,) = (node for node in ast.parse(read(file)).body if isinstance(node, ast.ClassDef))
    fields = [index for index, node in enumerate(kind.body) if isinstance(node, ast.AnnAssign)]
    unexplained = [
        ast.unparse(kind.body[index])
        for index in fields
        if index + 1 == len(kind.body) or not _is_text(kind.body[index + 1])
    ]
    assert unexplained == []


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@pytest.mark.parametrize("service", SERVICES)
def test_every_metric_is_in_the_readme(service: str) -> None:
    names = set(re.findall(r'"(soundstage_\w+)"', read("services", service, "metrics.py")))
    assert names
    assert all(name.startswith(f"soundstage_{service}_") for name in names)
    readme = read("services", service, "README.md")
    assert [name for name in sorted(names) if name not in readme] == []


def test_every_service_has_its_extra() -> None:
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    assert set(SERVICES) <= set(extras)


def test_every_library_is_typed_tested_and_held_apart() -> None:
    folders = {path.parent.name for path in (ROOT / "libs").glob("*/__init__.py")} - {"protos"}
    assert folders == set(LIBRARIES)
    assert [name for name in LIBRARIES if not (ROOT / "libs" / name / "py.typed").is_file()] == []
    assert [name for name in LIBRARIES if not list((ROOT / "tests" / "libs" / name).glob("test_*.py"))] == []
    contracts = read("pyproject.toml")
    assert [name for name in LIBRARIES if name != "errors" and f'"libs.{name}"' not in contracts] == []


def test_every_make_target_is_documented() -> None:
    text = read("README.md") + read("CONTRIBUTING.md")
    targets = make_targets()
    assert {"video", "test", "help"} <= targets
    assert [target for target in sorted(targets) if not re.search(rf"make {target}\b(?!-)", text)] == []


def test_every_program_of_the_makefile_exists() -> None:
    modules = set(re.findall(r"python -m ([a-z_.]+)", read("Makefile"))) - {"venv", "pip", "services."}
    missing = []
    for name in sorted(modules):
        spec = find_spec(name)
        is_package = spec is not None and spec.submodule_search_locations is not None
        if spec is None or (is_package and find_spec(f"{name}.__main__") is None):
            missing.append(name)
    assert missing == []


def test_every_family_of_scenes_has_captions() -> None:
    tables = (captions.STRENGTH_ADJECTIVES, captions.STRENGTH_PHRASES)
    for family, scene in FAMILIES.items():
        assert scene.SUBJECTS, family
        assert captions.SOUND_PHRASES[family], family
        assert all(set(table[family]) == {"weak", "strong"} for table in tables), family
    assert {family for _, family in captions.holdout_prompts()} == set(FAMILIES)


def test_every_family_of_scenes_is_in_the_readme() -> None:
    readme = read("README.md").lower()
    assert [family for family in FAMILIES if family.replace("_", " ") not in readme] == []


@pytest.mark.parametrize("model", [path.parent.name for path in (ROOT / "models").glob("*/soundstage.json")])
def test_every_model_is_whole(model: str) -> None:
    assert [part for part in MODEL_PARTS if not (ROOT / "models" / model / part).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(document: Path) -> None:
    targets = [target for target in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_every_decision_is_listed_and_complete() -> None:
    folder = ROOT / "docs" / "decisions"
    records = sorted(path for path in folder.glob("[0-9]*.md"))
    assert [path.name[:4] for path in records] == [f"{number:04d}" for number in range(1, len(records) + 1)]
    index = (folder / "README.md").read_text(encoding="utf-8")
    for record in records:
        text = record.read_text(encoding="utf-8")
        assert f"({record.name})" in index
        headings = ["## Context", "## Options", "## Decision", "## Consequences"]
        assert [heading for heading in headings if heading not in text] == [], record.name
        assert "Status: " in text, record.name


HEAVY = ("torch", "diffusers", "transformers")


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("services.gateway.__main__", HEAVY),
        ("client.cli", (*HEAVY, "services", "libs.serving", "temporalio")),
        ("deploy.local.__main__", (*HEAVY, "services", "training")),
        ("deploy.doctor.__main__", (*HEAVY, "services", "client", "sqlalchemy")),
        ("deploy.models.__main__", (*HEAVY, "services", "training", "click")),
        ("libs.serving", HEAVY),
        ("libs.artifacts", HEAVY),
        ("libs.triton", HEAVY),
        ("libs.catalog", (*HEAVY, "grpc")),
        ("libs.errors", (*HEAVY, "grpc", "google")),
    ],
)
def test_importing_brings_only_what_is_needed(module: str, without: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[name for name in {without!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""
