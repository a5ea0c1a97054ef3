"""Artifacts in this process's memory: the fake that tests use."""

from __future__ import annotations

import hashlib
import threading
from datetime import timedelta
from pathlib import Path

from libs.artifacts.integrity import missing, ref_of, verify, write_atomically
from libs.artifacts.ref import Ref, checked_key

__all__ = ["MemoryStore"]


class MemoryStore:
    def __init__(self, name: str = "memory") -> None:
        self._root = f"memory://{name}/"
        self._lock = threading.Lock()
        self._objects: dict[str, bytes] = {}

    def put(self, key: str, data: bytes, media_type: str) -> Ref:
        uri = self._root + checked_key(key)
        with self._lock:
            self._objects[uri] = bytes(data)
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
        below = self._root + checked_key(prefix.rstrip("/")) + "/"
        with self._lock:
            doomed = [uri for uri in self._objects if uri.startswith(below)]
            for uri in doomed:
                del self._objects[uri]
        return len(doomed)
