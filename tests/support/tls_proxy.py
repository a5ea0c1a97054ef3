"""A process that takes TLS from callers, and passes on what they send in plaintext. With CA, they show a certificate.

python -m tests.support.tls_proxy PORT TARGET CERT KEY [CA]
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from libs.serving import TlsFiles

__all__ = ["serving_tls"]

READY_SECONDS = 60.0


@contextmanager
def serving_tls(target: str, files: TlsFiles, port: int = 0) -> Iterator[str]:
    """Before `target` (host:port); with `files.ca` only for callers whose certificate that has signed. Its address."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        port = listener.getsockname()[1]
    names = [str(path) for path in (files.cert, files.key, files.ca) if path]
    process = subprocess.Popen([sys.executable, "-m", "tests.support.tls_proxy", str(port), target, *names])
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _is_open(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the TLS proxy did not start")
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(10)


def _is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


async def main(port: str, target: str, cert: str, key: str, ca: str = "") -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if ca:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    host, _, target_port = target.rpartition(":")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(host, int(target_port))
        await asyncio.gather(passed(reader, here), passed(there, writer))

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", int(port), ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
