"""Fixtures that tests in several folders use."""

from collections.abc import Iterator

import pytest

from tests.support.precision import bfloat16_is_fast
from tests.support.s3 import s3_server

__all__ = ["in_float32", "s3_server"]


@pytest.fixture
def in_float32() -> Iterator[None]:
    with bfloat16_is_fast(False):
        yield
