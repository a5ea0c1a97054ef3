"""The client for callers without an event loop: the asynchronous one, run on a loop in a thread of its own.

No call is written twice: each method here is the asynchronous one of the same name and signature, waited for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import wait as wait_for
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc

from client.aio import AsyncSoundstageClient

__all__ = ["SoundstageClient"]

STOP_SECONDS = 10.0
LOOK_SECONDS = 1.0

P = ParamSpec("P")
R = TypeVar("R")


def _waited(
    method: Callable[Concatenate[AsyncSoundstageClient, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[SoundstageClient, P], R]:
    @wraps(method)
    def call(self: SoundstageClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(method(self._client, *args, **kwargs))

    return call


def _iterated(
    method: Callable[Concatenate[AsyncSoundstageClient, P], AsyncGenerator[R, None]],
) -> Callable[Concatenate[SoundstageClient, P], Iterator[R]]:
    @wraps(method)
    def call(self: SoundstageClient, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        items = method(self._client, *args, **kwargs)
        try:
            while True:
                try:
                    item = self._run(anext(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._run(items.aclose())

    return call


class SoundstageClient:
    """Calls the public VideoService. Use it in a ``with``, or ``close()`` it. May be used from several threads.

    Every method does what the one of the same name in AsyncSoundstageClient says; ``list`` and ``watch`` are plain
    iterators here, and ``on_event`` of ``wait`` is called in the client's own thread.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        timeout_seconds: float = 30.0,
    ) -> None:
        """As AsyncSoundstageClient's."""
        self.address = address
        self._client = AsyncSoundstageClient(
            address, token=token, credentials=credentials, metadata=metadata, timeout_seconds=timeout_seconds
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="soundstage-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)
        self._loop.close()

    create = _waited(AsyncSoundstageClient.create)
    get = _waited(AsyncSoundstageClient.get)
    list = _iterated(AsyncSoundstageClient.list)
    watch = _iterated(AsyncSoundstageClient.watch)
    wait = _waited(AsyncSoundstageClient.wait)
    cancel = _waited(AsyncSoundstageClient.cancel)
    delete = _waited(AsyncSoundstageClient.delete)
    download = _waited(AsyncSoundstageClient.download)
    models = _waited(AsyncSoundstageClient.models)
    quota = _waited(AsyncSoundstageClient.quota)
    analyze = _waited(AsyncSoundstageClient.analyze)

    def _run(self, work: Coroutine[Any, Any, R]) -> R:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while not wait_for([future], timeout=LOOK_SECONDS).done:
                self._check_thread()
            return future.result()
        except BaseException:  # Ctrl-C in the waiting thread must stop the call as well
            future.cancel()
            raise

    def _check_thread(self) -> None:
        """Without this, a callback that raises SystemExit would end the loop and leave the caller waiting for ever."""
        if not self._thread.is_alive():
            raise RuntimeError("this client's thread has ended, by more than an Exception; make another client")
