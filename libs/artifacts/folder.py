"""Artifacts in a folder of this machine: the store of a laptop."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from libs.artifacts.integrity import chunks_of, missing, verify, write_atomically
from libs.artifacts.ref import Ref, Stored, checked_key
from libs.errors import Unavailable

__all__ = ["FolderStore"]


class FolderStore:
    """Several processes may share the folder: every file appears complete, by a rename."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, data: bytes, media_type: str) -> Ref:
        return self._write(key, [data], media_type)

    def put_file(self, key: str, path: Path, media_type: str) -> Ref:
        with path.open("rb") as file:
            return self._write(key, chunks_of(file), media_type)

    def get(self, ref: Ref) -> bytes:
        with _disk_errors_named(ref):
            data = self._path_of(ref).read_bytes()
        verify(ref, len(data), hashlib.sha256(data).hexdigest())
        return data

    def get_file(self, ref: Ref, path: Path) -> None:
        with _disk_errors_named(ref), self._path_of(ref).open("rb") as file:
            write_atomically(path, chunks_of(file), expected=ref)

    def url(self, ref: Ref, expires: timedelta) -> str:  # noqa: ARG002 (the port's signature)
        """The file's own URL; a folder cannot make it expire."""
        return self._path_of(ref).as_uri()

    def delete_prefix(self, prefix: str) -> int:
        folder = self._folder / checked_key(prefix.rstrip("/"))
        count = sum(1 for _ in self.walk(prefix))
        with _disk_errors_named():
            shutil.rmtree(folder, onerror=_unless_gone)
        return count

    def walk(self, prefix: str = "") -> Iterator[Stored]:
        top = self._folder / checked_key(prefix.rstrip("/")) if prefix else self._folder
        for folder, _, names in os.walk(top):
            for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):  # being written
                with suppress(FileNotFoundError):  # deleted meanwhile
                    facts = path.stat()
                    modified = datetime.fromtimestamp(facts.st_mtime, UTC)
                    yield Stored(path.relative_to(self._folder).as_posix(), facts.st_size, modified)

    def delete(self, keys: Iterable[str]) -> int:
        doomed = [self._folder / checked_key(key) for key in keys]
        for path in doomed:
            with _disk_errors_named():
                path.unlink(missing_ok=True)
            self._remove_empty_folders(path)
        return len(doomed)

    def uri_of(self, key: str) -> str:
        return (self._folder / checked_key(key)).as_uri()

    def key_of(self, ref: Ref) -> str:
        return self._path_of(ref).relative_to(self._folder).as_posix()

    def _write(self, key: str, chunks: Iterable[bytes], media_type: str) -> Ref:
        path = self._folder / checked_key(key)
        with _disk_errors_named():
            size_bytes, sha256 = write_atomically(path, chunks)
        return Ref(path.as_uri(), media_type, size_bytes, sha256)

    def _remove_empty_folders(self, path: Path) -> None:
        """Above ``path``, but not the topmost: a writer may be about to make a folder in that one."""
        depth = len(path.relative_to(self._folder).parents)
        with suppress(OSError):  # not empty
            for folder in path.parents[: max(depth - 2, 0)]:
                folder.rmdir()

    def _path_of(self, ref: Ref) -> Path:
        """The file of ``ref``. What leads out of the folder, also through a link, does not exist for this store."""
        parts = urlsplit(ref.uri)
        path = Path(unquote(parts.path)).resolve()
        if parts.scheme != "file" or parts.netloc or not path.is_relative_to(self._folder):
            raise missing(ref)
        return path


def _unless_gone(_do: object, _path: object, error: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


@contextmanager
def _disk_errors_named(ref: Ref | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if ref is not None and isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            raise missing(ref) from error
        raise Unavailable(
            f"the artifact folder cannot be used: {error.strerror}; check free space and permissions",
            reason="STORE_UNAVAILABLE",
        ) from error
