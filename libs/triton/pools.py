"""Which pods hold which model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from libs.triton.client import Triton
from libs.triton.pods import TritonOptions

__all__ = ["TritonPools"]

EVERY_OTHER = "*"


class TritonPools:
    """``async with TritonPools({"ltx": ["a:8001"], "*": ["b:8001"]}, options) as pools``: clients by model.

    Models with the same addresses share their connections, which live as long as the `with`.
    """

    def __init__(self, addresses: Mapping[str, Sequence[str]], options: TritonOptions) -> None:
        self._addresses, self._options = {model: tuple(pods) for model, pods in addresses.items()}, options
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._clients = {
                pods: await stack.enter_async_context(Triton(pods, self._options))
                for pods in dict.fromkeys(self._addresses.values())
            }
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def of(self, model: str) -> Triton | None:
        """None for a model that neither its name nor ``*`` stands for: it runs in this process."""
        pods = self._addresses.get(model) or self._addresses.get(EVERY_OTHER)
        return self._clients[pods] if pods else None
