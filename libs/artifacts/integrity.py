"""Size and SHA-256 of bytes: taken while they pass, compared with what a reference says."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from libs.artifacts.ref import Ref
from libs.errors import FailedPrecondition

__all__ = ["chunks_of", "missing", "ref_of", "verify", "write_atomically"]

_CHUNK_BYTES = 1 << 20


def ref_of(uri: str, media_type: str, data: bytes) -> Ref:
    return Ref(uri, media_type, len(data), hashlib.sha256(data).hexdigest())


def verify(ref: Ref, size_bytes: int, sha256: str) -> None:
    """Raise FailedPrecondition ARTIFACT_ALTERED unless both figures are those of ``ref``."""
    if (size_bytes, sha256) != (ref.size_bytes, ref.sha256):
        raise FailedPrecondition(
            f"artifact {ref.uri} is not what was written: {size_bytes} bytes with SHA-256 {sha256}, expected "
            f"{ref.size_bytes} bytes with {ref.sha256}; run the stage that wrote it again",
            reason="ARTIFACT_ALTERED",
            uri=ref.uri,
        )


def missing(ref: Ref) -> FailedPrecondition:
    return FailedPrecondition(
        f"artifact {ref.uri} is not in this store; run the stage that writes it again, or give both services the same "
        "artifacts_url",
        reason="ARTIFACT_MISSING",
        uri=ref.uri,
    )


def chunks_of(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def write_atomically(path: Path, chunks: Iterable[bytes], expected: Ref | None = None) -> tuple[int, str]:
    """Write ``chunks`` to ``path`` through a temporary file beside it; return size in bytes and SHA-256.

    With ``expected`` the bytes are verified before they get the name, so that nobody ever sees wrong ones.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    try:
        size_bytes, sha256 = _write(handle, chunks)
        if expected is not None:
            verify(expected, size_bytes, sha256)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return size_bytes, sha256


def _write(handle: int, chunks: Iterable[bytes]) -> tuple[int, str]:
    digest, size_bytes = hashlib.sha256(), 0
    with os.fdopen(handle, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size_bytes += len(chunk)
        file.flush()
        # A rename can reach the disk before the bytes do: after a power cut there would be an empty file of that name.
        os.fsync(file.fileno())
    return size_bytes, digest.hexdigest()
