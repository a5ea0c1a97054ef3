"""What every store must do; run against memory, a folder, and a real S3 server."""

from __future__ import annotations

import hashlib
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from libs.artifacts import Ref, Store, open_store
from libs.errors import FailedPrecondition

DATA = bytes(range(256)) * 8
KEY = "acme/video-1/encoder/try-1/conditioning.safetensors"


@pytest.fixture(params=["memory", "folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    name = f"t-{uuid.uuid4().hex[:16]}"
    if request.param == "memory":
        return open_store(f"memory://{name}")
    if request.param == "folder":
        return open_store((tmp_path / "store").as_uri())
    server = request.getfixturevalue("s3_server")
    return open_store(server.url(name), access_key=server.access_key, secret_key=server.secret_key)


def test_put_says_what_it_wrote(store: Store) -> None:
    ref = store.put(KEY, DATA, "application/octet-stream")
    assert (ref.media_type, ref.size_bytes) == ("application/octet-stream", len(DATA))
    assert ref.sha256 == hashlib.sha256(DATA).hexdigest()
    assert ref.uri.endswith(f"/{KEY}")


@pytest.mark.parametrize("data", [b"", b"x", DATA])
def test_get_returns_what_was_put(store: Store, data: bytes) -> None:
    assert store.get(store.put(KEY, data, "text/plain")) == data


def test_files_of_several_chunks_survive(store: Store, tmp_path: Path) -> None:
    data = DATA * 1500
    source, target = tmp_path / "in.bin", tmp_path / "deep" / "out.bin"
    source.write_bytes(data)
    ref = store.put_file(KEY, source, "video/mp4")
    assert (ref.size_bytes, ref.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    store.get_file(ref, target)
    assert target.read_bytes() == data
    assert store.get(ref) == data


def test_put_replaces(store: Store) -> None:
    store.put(KEY, b"old", "text/plain")
    assert store.get(store.put(KEY, b"newer", "text/plain")) == b"newer"


def test_what_was_never_written_is_missing(store: Store, tmp_path: Path) -> None:
    ref = store.put(KEY, DATA, "text/plain")
    unknown = replace(ref, uri=f"{ref.uri}2")
    with pytest.raises(FailedPrecondition) as caught:
        store.get(unknown)
    assert caught.value.reason == "ARTIFACT_MISSING"
    with pytest.raises(FailedPrecondition):
        store.get_file(unknown, tmp_path / "out" / "x")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("later", [b"other bytes, other length", bytes(len(DATA)), DATA + b"more", DATA[:-1]])
def test_altered_bytes_are_refused(store: Store, tmp_path: Path, later: bytes) -> None:
    ref = store.put(KEY, DATA, "text/plain")
    store.put(KEY, later, "text/plain")
    for read in (lambda: store.get(ref), lambda: store.get_file(ref, tmp_path / "out" / "x")):
        with pytest.raises(FailedPrecondition) as caught:
            read()
        assert caught.value.reason == "ARTIFACT_ALTERED"
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "uri", ["file:///etc/passwd", "s3://another-bucket/a/b", "memory://another/a", "https://example.org/a", "nonsense"]
)
def test_references_into_other_places_are_missing(store: Store, uri: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        store.get(Ref(uri, "text/plain", 1, "0" * 64))
    assert caught.value.reason == "ARTIFACT_MISSING"


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../../b", "a/.", "a/.hidden", "a b", "a\\b", "a/\x00"])
def test_keys_that_leave_their_place_are_refused(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="artifact key"):
        store.put(key, DATA, "text/plain")


def test_delete_prefix_deletes_the_folder_and_nothing_beside_it(store: Store) -> None:
    doomed = [store.put(f"acme/v1/{name}", DATA, "text/plain") for name in ("a", "b/c", "b/d/e")]
    kept = [store.put(key, DATA, "text/plain") for key in ("acme/v10/a", "acme/v2/a", "other/v1/a")]
    assert store.delete_prefix("acme/v1") == len(doomed)
    for ref in doomed:
        with pytest.raises(FailedPrecondition):
            store.get(ref)
    assert [store.get(ref) for ref in kept] == [DATA] * len(kept)
    assert store.delete_prefix("acme/v1/") == 0


def test_delete_prefix_never_deletes_everything(store: Store) -> None:
    ref = store.put(KEY, DATA, "text/plain")
    for prefix in ("", "/", "..", "acme/.."):
        with pytest.raises(ValueError, match="artifact key"):
            store.delete_prefix(prefix)
    assert store.get(ref) == DATA


def test_delete_prefix_in_an_empty_store(store: Store) -> None:
    assert store.delete_prefix("acme") == 0


def test_walk_finds_what_is_below_a_folder(store: Store) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    for key in ("acme/v1/b/c", "acme/v1/a", "acme/v10/a", "other/v1/a"):
        store.put(key, DATA, "text/plain")
    assert {stored.key for stored in store.walk()} == {"acme/v1/a", "acme/v1/b/c", "acme/v10/a", "other/v1/a"}
    found = list(store.walk("acme/v1"))
    assert sorted(stored.key for stored in found) == ["acme/v1/a", "acme/v1/b/c"]
    assert list(store.walk("acme/v1/")) == found
    assert [stored.size_bytes for stored in found] == [len(DATA)] * 2
    assert all(before < stored.modified < datetime.now(UTC) + timedelta(seconds=5) for stored in found)
    assert list(store.walk("acme/v3")) == []
    folders = [stored.key.rpartition("/")[0][:8] for stored in store.walk() if stored.key.startswith("acme")]
    assert folders in (["acme/v1", "acme/v1/", "acme/v10"], ["acme/v10", "acme/v1", "acme/v1/"])


def test_walk_in_an_empty_store(store: Store) -> None:
    assert list(store.walk()) == []
    with pytest.raises(ValueError, match="artifact key"):
        list(store.walk("../acme"))


def test_delete_deletes_exactly_what_is_named(store: Store) -> None:
    doomed, kept = (store.put(f"acme/v1/a/{name}", DATA, "text/plain") for name in ("x", "y"))
    assert store.delete([store.key_of(doomed), "acme/v1/a/never-there"]) == 2
    with pytest.raises(FailedPrecondition):
        store.get(doomed)
    assert store.get(kept) == DATA
    assert store.delete([]) == 0
    with pytest.raises(ValueError, match="artifact key"):
        store.delete(["acme/../v1"])


def test_the_key_of_a_reference(store: Store) -> None:
    ref = store.put(KEY, DATA, "text/plain")
    assert store.key_of(ref) == KEY
    with pytest.raises(FailedPrecondition):
        store.key_of(replace(ref, uri="https://example.org/a"))


def test_url_names_the_artifact(store: Store) -> None:
    ref = store.put(KEY, DATA, "text/plain")
    assert urlsplit(store.url(ref, timedelta(minutes=5))).path.endswith(KEY)


def test_many_threads_at_once(store: Store) -> None:
    def roundtrip(number: int) -> bool:
        data = DATA + str(number).encode()
        return store.get(store.put(f"acme/v1/s/{number}", data, "text/plain")) == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(roundtrip, range(40)))
