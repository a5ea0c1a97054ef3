"""What computes in one precision on every processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

__all__ = ["bfloat16_is_fast"]


@contextmanager
def bfloat16_is_fast(fast: bool) -> Iterator[None]:
    """``False``: in float32, so that what is computed in another order agrees to the last digits."""
    with mock.patch("libs.families.precision.is_bfloat16_fast", return_value=fast):
        yield
