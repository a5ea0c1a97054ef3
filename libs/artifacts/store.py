"""The port: what every store of artifacts does. Real: `S3Store`, `FolderStore`; for tests: `MemoryStore`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from libs.artifacts.ref import Ref, Stored

__all__ = ["Store"]


class Store(Protocol):
    """Synchronous and thread-safe; async callers go through ``asyncio.to_thread``.

    Keys are checked by `checked_key` (ValueError). Reading raises FailedPrecondition with reason ``ARTIFACT_MISSING``
    or ``ARTIFACT_ALTERED``; a store that does not answer raises Unavailable with reason ``STORE_UNAVAILABLE``.
    """

    def put(self, key: str, data: bytes, media_type: str) -> Ref:
        """Write ``data`` under ``key``, all of it or nothing, replacing what was there."""
        ...

    def put_file(self, key: str, path: Path, media_type: str) -> Ref:
        """Like `put`, for a file of any size."""
        ...

    def get(self, ref: Ref) -> bytes:
        """The bytes of ``ref``, with size and SHA-256 verified."""
        ...

    def get_file(self, ref: Ref, path: Path) -> None:
        """Write the bytes of ``ref`` to ``path``; on any error nothing is left at ``path``."""
        ...

    def url(self, ref: Ref, expires: timedelta) -> str:
        """A URL from which ``ref`` can be read until ``expires`` from now."""
        ...

    def delete_prefix(self, prefix: str) -> int:
        """Delete everything below the folder ``prefix`` and return the number of artifacts deleted.

        ``acme/v1`` deletes ``acme/v1/a`` but not ``acme/v10/a``.
        """
        ...

    def walk(self, prefix: str = "") -> Iterator[Stored]:
        """Every artifact below the folder ``prefix``, or all there are, those of one folder one after the other.

        What is written or deleted meanwhile may or may not be among them.
        """
        ...

    def delete(self, keys: Iterable[str]) -> int:
        """Delete these artifacts and return how many were asked for; one that is gone already is no error."""
        ...

    def uri_of(self, key: str) -> str:
        """The ``uri`` of what is written under ``key``, whether there is anything or not."""
        ...

    def key_of(self, ref: Ref) -> str:
        """The key that ``ref`` was written under; FailedPrecondition ARTIFACT_MISSING when it is not of this store."""
        ...
