"""From a URL in the settings to a store."""

from __future__ import annotations

import threading
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from libs.artifacts.folder import FolderStore
from libs.artifacts.memory import MemoryStore
from libs.artifacts.s3 import S3Address, S3Store
from libs.artifacts.store import Store

__all__ = ["open_store", "s3_address"]

_S3_OPTIONS = {"endpoint", "secure", "region", "public_endpoint"}
_memories: dict[str, MemoryStore] = {}
_memories_lock = threading.Lock()


def open_store(
    url: str, *, access_key: str = "", secret_key: str = "", public_endpoint: str = "", ca: Path | None = None
) -> Store:
    """Open the store that ``url`` names; raises ValueError saying what is wrong with it.

    - ``file:///absolute/folder``
    - ``s3://bucket?endpoint=host:port&secure=true&region=us-east-1``; ``public_endpoint`` (host:port or a URL) is the
      one that presigned URLs name, where callers reach the store by another address than we do; ``ca``, a PEM file,
      is the authority of its certificate where the system's are not
    - ``memory://name``: one memory a name in this process
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FolderStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc and parts.path in ("", "/"):
        return S3Store(s3_address(url, public_endpoint), access_key=access_key, secret_key=secret_key, ca=ca)
    if parts.scheme == "memory" and parts.netloc:
        with _memories_lock:
            return _memories.setdefault(parts.netloc, MemoryStore(parts.netloc))
    raise ValueError(
        f"artifacts URL {url!r}: use file:///absolute/folder, s3://bucket?endpoint=host:port or memory://name"
    )


def s3_address(url: str, public_endpoint: str = "") -> S3Address:
    """What an ``s3://`` URL says, without opening anything; raises ValueError saying what is wrong with it."""
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
    if unknown := options.keys() - _S3_OPTIONS:
        raise ValueError(f"artifacts URL: unknown option {sorted(unknown)}; known are {sorted(_S3_OPTIONS)}")
    if options.get("secure", "true") not in ("true", "false"):
        raise ValueError(f"artifacts URL: secure={options['secure']} must be true or false")
    return S3Address(
        bucket=parts.netloc,
        endpoint=options.get("endpoint", "s3.amazonaws.com"),
        secure=options.get("secure", "true") == "true",
        region=options.get("region", "us-east-1"),
        public_endpoint=public_endpoint or options.get("public_endpoint", ""),
    )
