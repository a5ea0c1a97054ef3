"""The models this installation has: `models/<name>/soundstage.json`, read once at start."""

from libs.catalog.card import Cost, Defaults, Limits, ModelCard
from libs.catalog.catalog import Catalog

__all__ = ["Catalog", "Cost", "Defaults", "Limits", "ModelCard"]
