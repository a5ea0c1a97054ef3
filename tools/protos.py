"""Builds the contracts: generated stubs, and the images that buf lints and compares.

    python -m tools.protos generate          libs/protos from proto/ (`make proto`)
    python -m tools.protos lint              buf lint
    python -m tools.protos breaking REF      buf breaking against proto/ at a git ref; passes where REF has no proto/

Everything comes from the locked packages: protoc from grpcio-tools, type stubs from mypy-protobuf, buf from buf-bin and
``buf/validate/validate.proto`` as the descriptor inside protovalidate, so that no copy of it has to be kept.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = ROOT / "libs" / "protos"
VALIDATE = "buf/validate/validate.proto"
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
BIN = Path(sys.executable).parent


def main() -> int:
    match sys.argv[1:]:
        case ["generate"]:
            generate()
            return 0
        case ["lint"]:
            return lint()
        case ["breaking", ref]:
            return breaking(ref)
    print(__doc__, file=sys.stderr)
    return 2


def generate() -> None:
    """Empties the generated trees first, so that a deleted proto leaves no stub behind."""
    for tree in ("soundstage", "buf"):
        shutil.rmtree(STUBS / tree, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        imports = _write_validate_descriptors(Path(scratch))
        files = [*_proto_files(PROTO), VALIDATE]
        out = str(STUBS)
        _protoc(imports, PROTO, f"--python_out={out}", f"--mypy_out=quiet:{out}", *files)
        _protoc(imports, PROTO, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *_proto_files(PROTO))
    for folder in sorted({path.parent for path in STUBS.rglob("*_pb2.py")}):
        while folder != STUBS:
            (folder / "__init__.py").touch()
            (folder / "py.typed").touch()
            folder = folder.parent


def lint() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        image = _build_image(PROTO, Path(scratch))
        return _buf("lint", str(image), "--config", str(ROOT / "buf.yaml"))


def breaking(ref: str) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        before = Path(scratch) / "before"
        if not _checkout_protos(ref, before):
            print(f"no proto/ at {ref}: nothing to compare")
            return 0
        old = _build_image(before / "proto", before)
        new = _build_image(PROTO, Path(scratch))
        return _buf("breaking", str(new), "--against", str(old), "--config", str(ROOT / "buf.yaml"))


def _proto_files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.proto"))


def _write_validate_descriptors(scratch: Path) -> Path:
    """Writes buf/validate and what it imports as a FileDescriptorSet that protoc can import from."""
    files = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def add(description: object) -> None:
        name = description.name  # type: ignore[attr-defined]
        if name in seen:
            return
        seen.add(name)
        for dependency in description.dependencies:  # type: ignore[attr-defined]
            add(dependency)
        files.file.add().ParseFromString(bytes(description.proto.to_binary()))  # type: ignore[attr-defined]

    add(validate_pb.desc())
    path = scratch / "validate.binpb"
    path.write_bytes(files.SerializeToString())
    return path


def _protoc(imports: Path, root: Path, *arguments: str) -> None:
    plugins = [f"--plugin={BIN / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    code = protoc.main(
        ["protoc", f"-I{root}", f"-I{WELL_KNOWN}", f"--descriptor_set_in={imports}", *plugins, *arguments]
    )
    if code != 0:
        raise SystemExit(f"protoc failed with status {code}")


def _build_image(root: Path, scratch: Path) -> Path:
    image = scratch / "image.binpb"
    imports = _write_validate_descriptors(scratch)
    _protoc(imports, root, "--include_imports", "--include_source_info", f"-o{image}", *_proto_files(root))
    return image


def _checkout_protos(ref: str, into: Path) -> bool:
    into.mkdir()
    archive = into / "proto.tar"
    command = ["git", "-C", str(ROOT), "archive", f"--output={archive}", ref, "proto"]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        return False
    shutil.unpack_archive(archive, into, filter="data")
    return True


def _buf(*arguments: str) -> int:
    return subprocess.run([str(BIN / "buf"), *arguments], check=False, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
