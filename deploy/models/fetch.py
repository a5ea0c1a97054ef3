"""Brings a model to this node: what is not there or not right is loaded, all is hashed, nothing is half there."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deploy.models.cache import Cache, Deadline
from deploy.models.manifest import Entry, Manifest, ModelUri, read_manifest
from deploy.models.patience import patiently
from libs.artifacts import S3Store
from libs.errors import FailedPrecondition, ResourceExhausted, Unavailable

__all__ = ["Effort", "Fetched", "fetch", "link"]

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 20
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Effort:
    parallel: int = 4
    """Files at once."""
    deadline_seconds: float = 1800.0
    """From the start until everything is there."""


@dataclass(frozen=True)
class Fetched:
    folder: Path
    files: int
    loaded: int
    """Files that were not there, or not right."""
    loaded_bytes: int


@contextmanager
def fetch(
    uri: ModelUri, store: S3Store, cache: Cache, effort: Effort, *, only: tuple[str, ...] = ()
) -> Iterator[Fetched]:
    """The model, which is not evicted until the ``with`` ends. ``only``: these of its files; none for all."""
    deadline = Deadline(effort.deadline_seconds)
    with cache.in_use(uri, deadline):
        yield _Fetch(uri, store, cache, effort.parallel, deadline).run(only)


class _Fetch:
    def __init__(self, uri: ModelUri, store: S3Store, cache: Cache, parallel: int, deadline: Deadline) -> None:
        self._uri, self._store, self._cache, self._deadline = uri, store, cache, deadline
        self._parallel = parallel
        self._stopped = threading.Event()

    def run(self, only: tuple[str, ...]) -> Fetched:
        manifest = self._patiently(lambda: read_manifest(self._store, self._uri))
        wanted = [entry for entry in manifest.files if not only or entry.path in only]
        with self._cache.loading(self._uri, self._deadline):
            right = self._for_each(self._is_right, wanted)
            lacking = [entry for entry, is_right in zip(wanted, right, strict=True) if not is_right]
            self._make_room(lacking)
            self._for_each(self._load, lacking)
            self._remove_strangers(manifest)
            if wanted == list(manifest.files):
                shutil.rmtree(self._cache.parts(self._uri), ignore_errors=True)
        folder = self._cache.model(self._uri)
        return Fetched(folder, len(wanted), len(lacking), sum(entry.size_bytes for entry in lacking))

    def _for_each(self, work: Callable[[Entry], _Result], entries: list[Entry]) -> list[_Result]:
        """In parallel. The first error, or a signal, stops the others soon."""
        with ThreadPoolExecutor(self._parallel) as pool:
            futures = [pool.submit(work, entry) for entry in entries]
            try:
                return [future.result() for future in futures]
            except BaseException:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _is_right(self, entry: Entry) -> bool:
        path = self._cache.model(self._uri) / entry.path
        if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.size_bytes:
            return False
        digest = hashlib.sha256()
        with path.open("rb") as file:
            self._hash(iter(lambda: file.read(_CHUNK_BYTES), b""), digest)
        if digest.hexdigest() != entry.sha256:
            _log.warning("%s was damaged and is loaded again", path)
            return False
        return True

    def _make_room(self, lacking: list[Entry]) -> None:
        begun = sum(part.stat().st_size for entry in lacking if (part := self._part(entry)).exists())
        needed = sum(entry.size_bytes for entry in lacking) - begun
        self._cache.make_room(needed)
        if needed > (free := self._cache.free_bytes()):
            raise ResourceExhausted(
                f"{self._uri} needs {needed} bytes more, and {free} are free: enlarge the cache's volume, or let it "
                "evict with --cache-gib",
                reason="CACHE_FULL",
            )

    def _load(self, entry: Entry) -> None:
        part = self._part(entry)
        # Twice: what another process began may have been wrong, what comes from the beginning is the object.
        for _ in range(2):
            self._patiently(lambda: self._continue(entry, part))
            if self._take(entry, part):
                return
            _log.warning("%s was not loaded as it was published", entry.path)
        raise FailedPrecondition(
            f"{entry.path} of {self._uri} is damaged in the store: publish the model again with --mend",
            reason="MODEL_ALTERED",
            uri=str(self._uri),
        )

    def _continue(self, entry: Entry, part: Path) -> None:
        """Appends to ``part`` what it lacks; what it holds when the connection breaks stays for the next try."""
        part.parent.mkdir(exist_ok=True)
        with part.open("ab") as file:
            if file.tell() >= entry.size_bytes and entry.size_bytes:
                return
            try:
                for chunk in self._store.stream(self._uri.ref(entry), file.tell()):
                    self._check()
                    file.write(chunk)
            except FailedPrecondition as error:
                if error.reason == "ARTIFACT_ALTERED":
                    return
                raise FailedPrecondition(
                    f"{entry.path} of {self._uri} is not in the store: publish the model again",
                    reason="MODEL_ALTERED",
                    uri=str(self._uri),
                ) from error

    def _take(self, entry: Entry, part: Path) -> bool:
        """Gives the file its name if it is right; deletes it if not."""
        digest = hashlib.sha256()
        with part.open("rb") as file:
            size_bytes = self._hash(iter(lambda: file.read(_CHUNK_BYTES), b""), digest)
            # A rename can reach the disk before the bytes do.
            os.fsync(file.fileno())
        if (size_bytes, digest.hexdigest()) != (entry.size_bytes, entry.sha256):
            part.unlink()
            return False
        path = self._cache.model(self._uri) / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
        return True

    def _hash(self, chunks: Iterator[bytes], digest: hashlib._Hash) -> int:
        size_bytes = 0
        for chunk in chunks:
            self._check()
            digest.update(chunk)
            size_bytes += len(chunk)
        return size_bytes

    def _part(self, entry: Entry) -> Path:
        """Of each path its own: files of equal content are loaded side by side, too."""
        return self._cache.parts(self._uri) / hashlib.sha256(f"{entry.sha256} {entry.path}".encode()).hexdigest()

    def _remove_strangers(self, manifest: Manifest) -> None:
        """The folder holds what was published and nothing else."""
        folder = self._cache.model(self._uri)
        known = {folder / entry.path for entry in manifest.files}
        for path in folder.rglob("*"):
            if path not in known and (path.is_symlink() or not path.is_dir()):
                path.unlink()

    def _patiently(self, work: Callable[[], _Result]) -> _Result:
        return patiently(work, self._deadline, self._stopped)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Unavailable("stopped", reason="MODEL_STOPPED")
        self._deadline.check("loading")


def link(folder: Path, into: Path) -> Path:
    """Shows the model among those of ``into``, which becomes a service's models folder."""
    into.mkdir(parents=True, exist_ok=True)
    shown, fresh = into / folder.name, into / f".{folder.name}.{os.getpid()}"
    if shown.exists() and not shown.is_symlink():
        raise ValueError(f"{shown} is there and no link: name another folder with --into, or move it away")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.resolve(), target_is_directory=True)
    fresh.replace(shown)
    return shown
