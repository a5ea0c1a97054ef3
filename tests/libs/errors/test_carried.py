"""Errors as text and back, within what gRPC carries."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from libs.errors import FailedPrecondition
from libs.errors.carried import from_text, to_text

MOST_BYTES = 8192
"""Of all of gRPC's metadata, in which what is not ASCII is percent-encoded."""


@pytest.mark.parametrize("before", ["", "in ensemble 'x', "])
def test_an_error_comes_back(before: str) -> None:
    error = FailedPrecondition("the LoRA\ndoes not fit: größer", reason="LORA_UNFITTING", layer="proj_in")
    back = from_text(before + to_text(error))
    assert back is not None
    assert (str(back), back.reason, back.metadata) == (str(error), error.reason, error.metadata)


def test_other_texts_are_no_such_errors() -> None:
    assert from_text("Failed to process the request") is None


def test_whatever_a_file_says_stays_within_the_bounds() -> None:
    worst = "\U0001f3ac" * 100_000
    text = to_text(FailedPrecondition(worst, reason="LORA_UNFITTING", layer=worst))
    assert len(quote(text)) < MOST_BYTES
    back = from_text(text)
    assert back is not None
    assert worst.startswith(str(back))
