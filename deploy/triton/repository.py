"""Folders of a model repository, and what they are made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from libs.catalog import Catalog, ModelCard
from libs.families.networks import Network

__all__ = ["emptied", "read_card", "read_config"]


def read_card(model_dir: Path) -> ModelCard:
    return Catalog.read(model_dir.resolve().parent).get(model_dir.resolve().name)


def read_config(card: ModelCard, network: Network) -> dict[str, Any]:
    """The network's own config.json."""
    config: dict[str, Any] = json.loads((card.path / network.subfolder / "config.json").read_text(encoding="utf-8"))
    return config


def emptied(folder: Path) -> Path:
    """With a folder for version 1, and nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1").mkdir(parents=True)
    return folder
