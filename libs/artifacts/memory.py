"""Artifacts in this process's memory: the fake that tests use."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from libs.artifacts.integrity import missing, ref_of, verify, write_atomically
from libs.artifacts.ref import Ref, Stored, checked_key

__all__ = ["MemoryStore"]


class MemoryStore:
    def __init__(self, name: str = "memory") -> None:
        self._root = f"memory://{name}/"
        self._lock = threading.Lock()
        self._objects: dict[str, bytes] = {}
        self._times: dict[str, datetime] = {}

    def put(self, key: str, data: bytes, media_type: str) -> Ref:
        uri = self._root + checked_key(key)
        with self._lock:
            self._objects[uri] = bytes(data)
            self._times[uri] = datetime.now(UTC)
        return ref_of(uri, media_type, data)

    def put_file(self, key: str, path: Path, media_type: str) -> Ref:
        return self.put(key, path.read_bytes(), media_type)

    def get(self, ref: Ref) -> bytes:
        with self._lock:
            data = self._objects.get(ref.uri)
        if data is None:
            raise missing(ref)
        verify(ref, len(data), hashlib.sha256(data).hexdigest())
        return data

    def get_file(self, ref: Ref, path: Path) -> None:
        write_atomically(path, [self.get(ref)])

    def url(self, ref: Ref, expires: timedelta) -> str:  # noqa: ARG002 (the port's signature)
        """The URI itself: nothing outside this process can read it."""
        return ref.uri

    def delete_prefix(self, prefix: str) -> int:
        checked_key(prefix.rstrip("/"))
        return self.delete([stored.key for stored in self.walk(prefix)])

    def walk(self, prefix: str = "") -> Iterator[Stored]:
        below = self._root + (checked_key(prefix.rstrip("/")) + "/" if prefix else "")
        with self._lock:
            found = sorted((uri, len(data), self._times[uri]) for uri, data in self._objects.items())
        for uri, size_bytes, modified in found:
            if uri.startswith(below):
                yield Stored(uri.removeprefix(self._root), size_bytes, modified)

    def delete(self, keys: Iterable[str]) -> int:
        uris = [self._root + checked_key(key) for key in keys]
        with self._lock:
            for uri in uris:
                self._objects.pop(uri, None)
                self._times.pop(uri, None)
        return len(uris)

    def uri_of(self, key: str) -> str:
        return self._root + checked_key(key)

    def key_of(self, ref: Ref) -> str:
        if not ref.uri.startswith(self._root):
            raise missing(ref)
        return ref.uri.removeprefix(self._root)
