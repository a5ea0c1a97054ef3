"""Reads the cards of a models folder and finds one by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

from libs.catalog.card import ModelCard
from libs.errors import NotFound

__all__ = ["Catalog", "read_card"]

_CARD_NAME = "soundstage.json"


class Catalog:
    def __init__(self, cards: Mapping[str, ModelCard]) -> None:
        self._cards = MappingProxyType(dict(sorted(cards.items())))

    @classmethod
    def read(cls, models_dir: Path) -> Self:
        """Every folder of ``models_dir`` with a `soundstage.json`. Raises ValueError naming the file that is wrong."""
        cards = [read_card(path) for path in sorted(models_dir.glob(f"*/{_CARD_NAME}"))]
        return cls({card.name: card for card in cards})

    def names(self) -> tuple[str, ...]:
        """In alphabetical order."""
        return tuple(self._cards)

    def get(self, name: str) -> ModelCard:
        card = self._cards.get(name)
        if card is None:
            known = ", ".join(self._cards) or "none: the models folder is empty"
            raise NotFound(f"model {name!r} is not known; known models: {known}", reason="MODEL_UNKNOWN", model=name)
        return card


def read_card(path: Path) -> ModelCard:
    """The card in the file ``path``; ValueError naming the file when it is wrong."""
    folder = path.parent.resolve()
    try:
        card = ModelCard.model_validate(json.loads(path.read_text(encoding="utf-8")) | {"path": folder})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if card.name != folder.name:
        raise ValueError(f"{path}: name {card.name!r} must be the folder's name {folder.name!r}")
    return card
