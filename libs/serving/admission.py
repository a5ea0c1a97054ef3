"""Whose a call is: asked before anything else looks at it, of the connection and of the endpoint that it goes to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar

from libs.errors import Unauthenticated
from libs.serving.around import AroundInterceptor, Call

__all__ = ["AdmissionInterceptor", "Admit", "PeerInterceptor", "caller"]

Admit = Callable[[Mapping[str, str]], Awaitable[str]]
"""From a call's metadata to who makes it. Raises the error with which the call is refused."""

_caller: ContextVar[str] = ContextVar("caller")


def caller() -> str:
    """Who makes the present call. LookupError in calls to an endpoint without ``admit``, and outside of calls."""
    return _caller.get()


class PeerInterceptor(AroundInterceptor):
    """Answers only to callers whose certificate holds one of ``names``: not everybody whom the authority knows.

    Health and reflection answer to all of them.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = {name.encode() for name in names}

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        shown = call.context.auth_context().get("x509_subject_alternative_name", ())
        if not call.service.startswith("grpc.") and self._names.isdisjoint(shown):
            raise Unauthenticated("this certificate is not one of those that may call", reason="CALLER_NOT_ALLOWED")
        yield


class AdmissionInterceptor(AroundInterceptor):
    """Services without an ``Admit`` of their own, like health and reflection, stay open to everybody."""

    def __init__(self, admit_of: Mapping[str, Admit]) -> None:
        self._admit_of = admit_of

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        admit = self._admit_of.get(call.service)
        if admit is not None:
            _caller.set(await admit(_metadata(call)))  # every call has a context of its own
        yield


def _metadata(call: Call) -> dict[str, str]:
    return {key: value for key, value in call.context.invocation_metadata() or () if isinstance(value, str)}
