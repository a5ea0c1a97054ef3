"""TLS from PEM files that may be replaced while the process runs: the next connection uses the new ones.

A server asks for its certificate at every handshake. A channel cannot change its own, so that it is replaced by a new
channel when a call finds other files; calls in flight end on the old one.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
from typing_extensions import override

__all__ = ["Reloading", "TlsFiles", "reloading_channel", "server_credentials"]

_log = logging.getLogger(__name__)

T = TypeVar("T")
_Open = Callable[[grpc.ChannelCredentials], grpc.aio.Channel]

_DRAIN_SECONDS = 6 * 3600.0
"""Longer than any stage: what has begun on the old connection may end there."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. ``cert`` and ``key``: who we are. ``ca``: the authority whose certificate the other side must show.

    Without ``ca``, a server takes every caller, and a caller trusts the system's authorities.
    """

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("a TLS certificate and its key go together: name both files, or none")

    @property
    def named(self) -> list[Path]:
        return [path for path in (self.cert, self.key, self.ca) if path is not None]


class Reloading(Generic[T]):
    """What is made from files, made anew when these have changed; from unusable new ones nothing is made."""

    def __init__(self, files: TlsFiles, make: Callable[[TlsFiles], T]) -> None:
        """Raises OSError or ssl.SSLError for files that cannot be used."""
        self._files, self._make = files, make
        self._seen = _marks(files)
        self.value = self._made()

    def changed(self) -> bool:
        """Whether ``value`` is another one than at the last call."""
        try:
            marks = _marks(self._files)
            if marks == self._seen:
                return False
            self._seen = marks
            self.value = self._made()
        except OSError as error:  # ssl.SSLError is one
            _log.error("TLS files %s: %s; the earlier ones stay in use", self._files.named, error)
            return False
        _log.info("TLS files were replaced", extra={"files": [str(path) for path in self._files.named]})
        return True

    def _made(self) -> T:
        _check(self._files)
        return self._make(self._files)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Of a server with ``cert`` and ``key``; with ``ca``, callers must show a certificate of that authority."""
    reloading = Reloading(files, _server_configuration)

    def replaced() -> grpc.ServerCertificateConfiguration | None:
        return reloading.value if reloading.changed() else None

    # The stubs do not know that None means "no other than before".
    return grpc.dynamic_ssl_server_credentials(reloading.value, replaced, files.ca is not None)  # type: ignore[arg-type]


def reloading_channel(files: TlsFiles, open_: _Open) -> grpc.aio.Channel:
    """Behaves as what ``open_`` gives, with the files as they are at each call."""
    return _ReloadingChannel(Reloading(files, _channel_credentials), open_)


class _ReloadingChannel(grpc.aio.Channel):
    """A channel that a new one takes the place of when the files have changed."""

    def __init__(self, credentials: Reloading[grpc.ChannelCredentials], open_: _Open) -> None:
        self._credentials, self._open = credentials, open_
        self._channel = open_(credentials.value)
        self._draining: dict[asyncio.Task[None], grpc.aio.Channel] = {}

    def _current(self) -> grpc.aio.Channel:
        if self._credentials.changed():
            old, self._channel = self._channel, self._open(self._credentials.value)
            draining = asyncio.ensure_future(old.close(_DRAIN_SECONDS))
            self._draining[draining] = old
            draining.add_done_callback(lambda task: self._draining.pop(task, None))
        return self._channel

    @override
    async def close(self, grace: float | None = None) -> None:
        draining = dict(self._draining)
        for task, old in draining.items():
            task.cancel()
            await old.close()
        await self._channel.close(grace)

    @override
    async def __aenter__(self) -> Self:
        return self

    @override
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @override
    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._current().get_state(try_to_connect)

    @override
    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    @override
    async def channel_ready(self) -> None:
        await self._current().channel_ready()

    @override
    def unary_unary(self, *given: Any, **options: Any) -> Any:
        return lambda *call, **how: self._current().unary_unary(*given, **options)(*call, **how)

    @override
    def unary_stream(self, *given: Any, **options: Any) -> Any:
        return lambda *call, **how: self._current().unary_stream(*given, **options)(*call, **how)

    @override
    def stream_unary(self, *given: Any, **options: Any) -> Any:
        return lambda *call, **how: self._current().stream_unary(*given, **options)(*call, **how)

    @override
    def stream_stream(self, *given: Any, **options: Any) -> Any:
        return lambda *call, **how: self._current().stream_stream(*given, **options)(*call, **how)


def _server_configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    if files.cert is None or files.key is None:
        raise ValueError("a TLS server needs a certificate and its key")
    pair = (files.key.read_bytes(), files.cert.read_bytes())
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=_read(files.ca))


def _channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(_read(files.ca), _read(files.key), _read(files.cert))


def _check(files: TlsFiles) -> None:
    """That certificate and key belong together: while they are being replaced, they may not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if files.cert is not None:
        context.load_cert_chain(files.cert, files.key)
    if files.ca is not None:
        context.load_verify_locations(files.ca)


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _marks(files: TlsFiles) -> list[tuple[int, int, int]]:
    """Other marks, other files; also where a link now leads elsewhere, as in Kubernetes' mounts of secrets."""
    return [(found.st_mtime_ns, found.st_size, found.st_ino) for found in (path.stat() for path in files.named)]
