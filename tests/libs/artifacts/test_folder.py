from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from libs.artifacts import FolderStore, Ref, open_store
from libs.artifacts.integrity import write_atomically
from libs.errors import FailedPrecondition, Unavailable


def test_url_is_a_file(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "with space")
    url = store.url(store.put("a/b", b"x", "text/plain"), timedelta(minutes=1))
    assert Path(unquote(urlsplit(url).path)).read_bytes() == b"x"


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    store = FolderStore(tmp_path / "store")
    (tmp_path / "store" / "link").symlink_to(tmp_path / "secret")
    ref = Ref((tmp_path / "store" / "link").as_uri(), "text/plain", 1, "0" * 64)
    with pytest.raises(FailedPrecondition) as caught:
        store.get(ref)
    assert caught.value.reason == "ARTIFACT_MISSING"


@pytest.mark.parametrize("escape", ["../secret", "%2e%2e/secret"])
def test_a_uri_that_climbs_out_is_missing(tmp_path: Path, escape: str) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    store = FolderStore(tmp_path / "store")
    with pytest.raises(FailedPrecondition) as caught:
        store.get(Ref(f"{(tmp_path / 'store').as_uri()}/{escape}", "text/plain", 1, "0" * 64))
    assert caught.value.reason == "ARTIFACT_MISSING"


def test_two_stores_on_one_folder_see_each_other(tmp_path: Path) -> None:
    ref = open_store(tmp_path.as_uri()).put("a/b", b"x", "text/plain")
    assert open_store(tmp_path.as_uri()).get(ref) == b"x"


def test_a_write_that_breaks_off_leaves_the_old_bytes_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def broken() -> Iterator[bytes]:
        yield b"new, but"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        write_atomically(path, broken())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / "a").write_bytes(b"a file where a folder must be")
    with pytest.raises(Unavailable) as caught:
        store.put("a/b", b"x", "text/plain")
    assert caught.value.reason == "STORE_UNAVAILABLE"


def test_what_cannot_be_deleted_is_told(tmp_path: Path) -> None:
    """A file where a folder should be: also root, who may delete everything, is refused this."""
    store = FolderStore(tmp_path / "store")
    (tmp_path / "store" / "acme").mkdir()
    (tmp_path / "store" / "acme" / "v1").write_text("no folder")
    with pytest.raises(Unavailable) as caught:
        store.delete_prefix("acme/v1")
    assert caught.value.reason == "STORE_UNAVAILABLE"


def test_deleting_leaves_no_empty_folders_but_the_owner_s(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.put("acme/v1/a/b", b"x", "text/plain")
    store.delete(["acme/v1/a/b"])
    assert [path.name for path in (tmp_path / "store").rglob("*")] == ["acme"]
