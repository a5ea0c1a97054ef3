"""Stands where TensorRT and its GPU would: what it builds is random bytes, with a manifest as the real builder's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from deploy.triton.engine import Machine, Manifest, hash_of
from deploy.triton.repository import emptied, read_card
from libs.families.networks import NETWORKS

__all__ = ["H100", "L4", "standing_in"]

H100 = Machine("NVIDIA H100 80GB HBM3", "9.0", "10.5.0")
L4 = Machine("NVIDIA L4", "8.9", "10.5.0")
_FILES = ("model.plan", "timing.cache", "onnx/model.onnx")


def standing_in(machine: Machine, meanwhile: Callable[[], object] = lambda: None) -> Callable[..., None]:
    """A builder. As TensorRT, it never builds the same twice. ``meanwhile`` happens while it builds."""

    def build(model_dir: Path, repository: Path, *, dtype: str, instances: int) -> None:
        card = read_card(model_dir)
        for name in NETWORKS[card.family]:
            folder = emptied(repository / f"{card.name}_{name}")
            (folder / "config.pbtxt").write_text(f"instance_group {{ count: {instances} }}")
            (folder / "1/onnx").mkdir()
            for file in _FILES:
                (folder / "1" / file).write_bytes(os.urandom(1000))
            files = {file: hash_of(folder / "1" / file) for file in _FILES}
            Manifest(name, card.family, dtype, 0.0, [], files, machine).write(folder / "1/manifest.json")
        meanwhile()

    return build
