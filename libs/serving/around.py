"""One way to put something around every call, for both kinds of RPC that Soundstage has."""

from __future__ import annotations

import abc
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any

import grpc

__all__ = ["AroundInterceptor", "Call"]

_Context = grpc.aio.ServicerContext[Any, Any]
_Behaviour = Callable[[Any, _Context], Any]


@dataclass(frozen=True)
class Call:
    """One RPC at work: ``service`` is the full name, ``method`` the short one."""

    service: str
    method: str
    request: object
    context: _Context


class AroundInterceptor(grpc.aio.ServerInterceptor):
    """Subclasses say what happens around a call; unary-unary and unary-stream are wrapped here, once."""

    @abc.abstractmethod
    def around(self, call: Call) -> AbstractAsyncContextManager[None]: ...

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 (None, for an unknown method, must pass; the stubs know only handlers)
        handler: Any = await continuation(handler_call_details)
        # None: no such method. Streaming requests: only gRPC's own reflection has them.
        if handler is None or handler.request_streaming:
            return handler
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        serialisers = (handler.request_deserializer, handler.response_serializer)
        if handler.response_streaming:
            behaviour = self._stream(service, method, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(behaviour, *serialisers)
        return grpc.unary_unary_rpc_method_handler(self._unary(service, method, handler.unary_unary), *serialisers)

    def _unary(self, service: str, method: str, behaviour: _Behaviour) -> _Behaviour:
        async def call(request: object, context: _Context) -> object:
            async with self.around(Call(service, method, request, context)):
                return await behaviour(request, context)

        return call

    def _stream(self, service: str, method: str, behaviour: _Behaviour) -> _Behaviour:
        async def call(request: object, context: _Context) -> None:
            async with self.around(Call(service, method, request, context)):
                if not inspect.isasyncgenfunction(behaviour):
                    await behaviour(request, context)
                    return
                await _write_all(behaviour(request, context), context)

        return call


async def _write_all(responses: AsyncIterator[Any], context: _Context) -> None:
    """Write ``responses``. Closing the generator here, not by the garbage collector, ends the work with the call."""
    async with aclosing(responses):  # type: ignore[type-var]
        async for response in responses:
            await context.write(response)
