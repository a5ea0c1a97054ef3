"""What a model's card asks of a request."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from libs.catalog import Catalog, ModelCard
from libs.errors import InvalidRequest
from services.gateway.resolve import resolve
from services.gateway.video import VideoRequest

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def card() -> ModelCard:
    return Catalog.read(Path("models")).get("diorama")


@pytest.mark.parametrize(
    ("changes", "image", "says"),
    [
        ({"image_required": True}, b"", "give one"),
        ({"image_to_video": False}, b"png", "leave the image out"),
    ],
)
def test_an_image_that_is_missing_or_too_much_is_refused(
    card: ModelCard, changes: dict[str, bool], image: bytes, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        resolve(VideoRequest(prompt="fire", image=image), card.model_copy(update=changes), NOW)
    assert [violation.field for violation in refused.value.violations] == ["spec.image"]


def test_an_image_that_is_wanted_is_taken(card: ModelCard) -> None:
    wanted = card.model_copy(update={"image_required": True})
    assert resolve(VideoRequest(prompt="fire", image=b"png"), wanted, NOW).prompt == "fire"
