"""Fetches a result: https, http or file URL to a file that appears only when it is complete and its hash is right."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from client.backoff import Backoff
from client.errors import DownloadError

__all__ = ["fetch"]

CHUNK_BYTES = 1 << 20
STALL_SECONDS = 60.0
RETRIES = Backoff(attempts=4, first_seconds=0.5)


def fetch(url: str, path: Path, *, sha256: str = "", size_bytes: int = 0, backoff: Backoff = RETRIES) -> None:
    """Blocks. Checks the hash and the size where they are given. Raises DownloadError; ``path`` is then untouched."""
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise DownloadError(f"the server gave an address that this client cannot fetch: {url}")
    for failures in range(1, backoff.attempts + 1):
        try:
            _fetch_once(url, path, sha256, size_bytes)
        except (OSError, http.client.HTTPException) as error:
            if failures == backoff.attempts or not _passes_by_itself(error):
                raise DownloadError(_explain(url, path, error)) from error
            time.sleep(backoff.seconds(failures))
        else:
            return


def _fetch_once(url: str, path: Path, sha256: str, size_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file, urllib.request.urlopen(url, timeout=STALL_SECONDS) as source:
            size, digest = _copy(source, file)
        if size < size_bytes:  # urllib takes a cut connection for the end of the file
            raise ConnectionError(f"it ended after {size} of {size_bytes} bytes")
        if (sha256 and digest != sha256) or (size_bytes and size != size_bytes):
            raise DownloadError(
                f"what came from {url} is not the video: {size} bytes with sha256 {digest}, "
                f"where the server promised {size_bytes} bytes with {sha256}"
            )
        _give_usual_mode(Path(name))
        Path(name).replace(path)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()


def _copy(source: IO[bytes], file: IO[bytes]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        size += file.write(chunk)
    return size, digest.hexdigest()


def _give_usual_mode(path: Path) -> None:
    """mkstemp makes files that only the owner can read; a downloaded video is an ordinary file."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _passes_by_itself(error: OSError | http.client.HTTPException) -> bool:
    """A refused or gone file stays refused; a cut or an overloaded store does not."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code == 429
    if isinstance(error, urllib.error.URLError):
        return not isinstance(error.reason, FileNotFoundError | PermissionError | str)
    return isinstance(error, ConnectionError | TimeoutError | http.client.HTTPException)


def _explain(url: str, path: Path, error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError) and error.code == 403:
        return f"{url} was refused (403); its time may be over: ask for the video again to get a fresh address"
    if urlsplit(url).scheme == "file" and isinstance(error, urllib.error.URLError):
        return f"{url} is not on this machine: {error.reason}"
    return f"could not bring {url} to {path}: {error}"
