from __future__ import annotations

import pytest

from libs.artifacts import MemoryStore, S3Store, open_store


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relative/folder",
        "file://host/folder",
        "s3://",
        "s3://bucket/prefix",
        "memory://",
        "ftp://a/b",
        "file:relative",
    ],
)
def test_urls_that_name_no_store(url: str) -> None:
    with pytest.raises(ValueError, match="artifacts URL"):
        open_store(url)


@pytest.mark.parametrize("query", ["endpont=127.0.0.1:1", "secure=maybe"])
def test_s3_options_are_checked(query: str) -> None:
    with pytest.raises(ValueError, match="artifacts URL"):
        open_store(f"s3://bucket?{query}")


def test_s3_opens_without_network() -> None:
    assert isinstance(open_store("s3://bucket?endpoint=127.0.0.1:1&secure=false"), S3Store)


def test_one_memory_a_name() -> None:
    store = open_store("memory://test-opening")
    assert isinstance(store, MemoryStore)
    assert open_store("memory://test-opening") is store
    assert open_store("memory://test-opening-2") is not store
