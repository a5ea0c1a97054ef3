"""The models this installation has: `models/<name>/soundstage.json`, read once at start."""

from libs.catalog.card import Cost, Defaults, Limits, ModelCard
from libs.catalog.catalog import Catalog, read_card

__all__ = ["Catalog", "Cost", "Defaults", "Limits", "ModelCard", "read_card"]
