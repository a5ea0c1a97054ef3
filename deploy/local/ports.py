"""Free TCP ports on this machine."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

__all__ = ["free_ports"]

# Below the range that systems draw outgoing connections from, so that a port stays free until its service has it.
FIRST, LAST = 20_000, 32_000
TRIES = 500


def free_ports(count: int) -> list[int]:
    """``count`` different ports of 127.0.0.1 that nothing listens on. Raises OSError when there are none."""
    ports: list[int] = []
    with ExitStack() as held:  # all at once, so that none is given twice
        for _ in range(TRIES):
            if len(ports) == count:
                return ports
            port = random.randint(FIRST, LAST)
            listener = held.enter_context(socket.socket())
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
    raise OSError(f"no {count} free ports between {FIRST} and {LAST} after {TRIES} tries")
