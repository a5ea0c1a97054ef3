"""Fixtures that tests in several folders use."""

import pytest

from tests.support.s3 import s3_server

__all__ = ["in_float32", "s3_server"]


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every processor, so that what is computed in another order agrees to the last digits."""
    monkeypatch.setattr("libs.families.precision.is_bfloat16_fast", lambda: False)
