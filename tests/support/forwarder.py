"""A port that passes bytes on to another one, as an ingress does, and can be told to break connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["Forwarder", "forwarding"]


class Forwarder:
    """``broken``: connections are cut when the caller sends something that begins with it; b"" is everything.

    ``cut`` breaks those that are open now.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self.broken: bytes | None = None
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                caller, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(caller,), daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut(self) -> None:
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _connect(self, caller: socket.socket) -> None:
        with caller, suppress(OSError), socket.create_connection(self._target) as server:
            ends = {caller, server}
            self._open |= ends
            answering = threading.Thread(target=self._pass, args=(server, caller, False), daemon=True)
            answering.start()
            self._pass(caller, server, True)
            answering.join()
            self._open -= ends

    def _pass(self, source: socket.socket, sink: socket.socket, asking: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if asking and self.broken is not None and data.startswith(self.broken):
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def forwarding(target: str) -> Iterator[Forwarder]:
    forwarder = Forwarder(target)
    accepting = threading.Thread(target=forwarder.accept)
    accepting.start()
    try:
        yield forwarder
    finally:
        forwarder.close()
        accepting.join(10)
