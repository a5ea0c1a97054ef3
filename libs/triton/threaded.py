"""A client for programs that have no event loop of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from libs.triton.client import Triton
from libs.triton.pods import TritonOptions

__all__ = ["triton_in_thread"]

OPEN_CLOSE_SECONDS = 60.0


@contextmanager
def triton_in_thread(addresses: Sequence[str], options: TritonOptions) -> Iterator[Triton]:
    """Its connections live in a loop in a thread of its own; `Triton.infer` may be called from any other."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="triton", daemon=True)
    thread.start()
    triton = Triton(addresses, options)
    try:
        asyncio.run_coroutine_threadsafe(triton.__aenter__(), loop).result(OPEN_CLOSE_SECONDS)
        try:
            yield triton
        finally:
            asyncio.run_coroutine_threadsafe(triton.__aexit__(None, None, None), loop).result(OPEN_CLOSE_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(OPEN_CLOSE_SECONDS)
        loop.close()
