"""Models on this node: a folder that pods may share.

    <revision>/<name>/        the model, the last part being its name, as the catalogue wants it
    <revision>/parts/            files on their way
    <revision>/used           its time says when a fetch wanted it last
    locks/<revision>.load     held by who loads or mends it, alone
    locks/<revision>.use      held by everybody who uses it; by who evicts it, alone

Locks are the kernel's (flock): whoever dies lets go of them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.models.manifest import ModelUri
from libs.errors import Unavailable

__all__ = ["Cache", "Deadline"]

_log = logging.getLogger(__name__)
_LOCK_POLL_SECONDS = 0.2


class Deadline:
    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        return self._at - time.monotonic()

    def check(self, what: str) -> None:
        if self.left() <= 0:
            raise Unavailable(f"no time is left ({what}); raise --deadline-seconds", reason="MODEL_LATE")


class Cache:
    """``most_bytes``: evict down to this, those first that were wanted longest ago; 0 for never."""

    def __init__(self, folder: Path, most_bytes: int = 0) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        (folder / "locks").mkdir(parents=True, exist_ok=True)

    def model(self, uri: ModelUri) -> Path:
        return self._folder / uri.revision / uri.name

    def parts(self, uri: ModelUri) -> Path:
        return self._folder / uri.revision / "parts"

    @contextmanager
    def in_use(self, uri: ModelUri, deadline: Deadline) -> Iterator[None]:
        """It is not evicted meanwhile."""
        with self._locked(f"{uri.revision}.use", fcntl.LOCK_SH, deadline):
            (self._folder / uri.revision).mkdir(exist_ok=True)
            (self._folder / uri.revision / "used").touch()
            yield

    @contextmanager
    def loading(self, uri: ModelUri, deadline: Deadline) -> Iterator[None]:
        """Nobody else writes to it meanwhile. Waits for whoever does."""
        with self._locked(f"{uri.revision}.load", fcntl.LOCK_EX, deadline):
            yield

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free

    def make_room(self, needed_bytes: int) -> None:
        """Evicts what nobody uses until ``needed_bytes`` more are within ``most_bytes``, or all the rest is used."""
        if not self._most_bytes:
            return
        sizes = {folder: _size_of(folder) for folder in self._by_use()}
        above = sum(sizes.values()) + needed_bytes - self._most_bytes
        for folder, size_bytes in sizes.items():
            if above > 0 and self._evict(folder):
                above -= size_bytes
        if above > 0:
            _log.warning("the cache will be %d bytes too large: what is left in it is in use", above)

    def _by_use(self) -> list[Path]:
        found = {used.parent: used.stat().st_mtime for used in self._folder.glob("*/used")}
        return sorted(found, key=lambda folder: found[folder])

    def _evict(self, folder: Path) -> bool:
        with self._lock_file(f"{folder.name}.use") as handle:
            if not _try_lock(handle, fcntl.LOCK_EX):
                return False
            shutil.rmtree(folder, ignore_errors=True)
        _log.info("%s evicted", folder.name)
        return True

    @contextmanager
    def _locked(self, name: str, kind: int, deadline: Deadline) -> Iterator[None]:
        with self._lock_file(name) as handle:
            while not _try_lock(handle, kind):
                deadline.check("another process has the model")
                time.sleep(_LOCK_POLL_SECONDS)
            yield

    @contextmanager
    def _lock_file(self, name: str) -> Iterator[int]:
        """Never deleted: two could then hold locks of two files of this name."""
        handle = os.open(self._folder / "locks" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            yield handle
        finally:
            os.close(handle)


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
