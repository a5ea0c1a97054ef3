"""How a caller's connection is encrypted."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import grpc

__all__ = ["tls_credentials"]


def tls_credentials(
    *,
    ca: str | PathLike[str] | None = None,
    cert: str | PathLike[str] | None = None,
    key: str | PathLike[str] | None = None,
) -> grpc.ChannelCredentials:
    """TLS from PEM files. ca: who vouches for the server, left out for the system's authorities.

    cert, key: ours, for a server that asks for them. Raises OSError for a file that cannot be read, ValueError for a
    certificate without its key.
    """
    if (cert is None) != (key is None):
        raise ValueError("a TLS certificate and its key go together: name both files, or none")
    contents = [None if path is None else Path(path).read_bytes() for path in (ca, key, cert)]
    return grpc.ssl_channel_credentials(*contents)
