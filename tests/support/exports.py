"""Tiny models' networks as ONNX, in a model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.triton.build_tensorrt import build_tensorrt
from tests.support.tiny_diorama import write_tiny_diorama
from tests.support.tiny_families import write_tiny


def exported(models: Path, repository: Path, model: str, name: str, **how: Any) -> Path:
    """The version's folder; model and network are written once. ``how``: of `build_tensorrt`."""
    version = repository / f"{model}_{name}" / "1"
    if not version.exists():
        write = write_tiny_diorama if model == "diorama" else write_tiny
        folder = models / model if (models / model).exists() else write(models, model)
        build_tensorrt(folder, repository, networks=[name], export_only=True, **how)
    return version
