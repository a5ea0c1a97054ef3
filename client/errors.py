"""What can go wrong in a call, told so that a person knows what to change.

SoundstageClientError
 ├─ SoundstageRpcError    the server refused or could not be reached: code, reason, violations
 ├─ WaitTimeoutError      the video was not ready in time; it goes on
 └─ DownloadError         the file could not be fetched, or is not what the server promised
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

__all__ = ["DownloadError", "SoundstageClientError", "SoundstageRpcError", "Violation", "WaitTimeoutError"]

STATUS_DETAILS_KEY = "grpc-status-details-bin"


class SoundstageClientError(Exception):
    """Base of all."""


class WaitTimeoutError(SoundstageClientError):
    pass


class DownloadError(SoundstageClientError):
    pass


@dataclass(frozen=True)
class Violation:
    """One field of the request that must change: its path, for example ``spec.prompt``, and what to do."""

    field: str
    description: str


class SoundstageRpcError(SoundstageClientError):
    """A call that failed. ``str()`` is for people; ``code``, ``reason`` and the rest are for programs.

    ``reason`` is in UPPER_SNAKE_CASE; empty where the error did not come from Soundstage itself but from the way there.
    ``retry_seconds``: when the server thinks that another try may do; None where it does not say.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        violations: Iterable[Violation] = (),
        retry_seconds: float | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.reason = reason
        self.violations = tuple(violations)
        self.retry_seconds = retry_seconds
        super().__init__(self._text())

    def _text(self) -> str:
        if self.violations:
            return "\n".join(f"{v.field}: {v.description}" for v in self.violations)
        return self.message or self.code.name

    @classmethod
    def from_rpc(cls, error: grpc.aio.AioRpcError) -> SoundstageRpcError:
        """Reads ``ErrorInfo``, ``BadRequest`` and ``RetryInfo`` out of the status details, where there are any."""
        reason, violations, retry_seconds = "", list[Violation](), None
        for detail in _details(error):
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(bad):
                violations += [Violation(v.field, v.description) for v in bad.field_violations]
            elif detail.Unpack(retry):
                retry_seconds = retry.retry_delay.ToTimedelta().total_seconds()
        return cls(
            error.code(), error.details() or "", reason=reason, violations=violations, retry_seconds=retry_seconds
        )


def _details(error: grpc.aio.AioRpcError) -> list[any_pb2.Any]:
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:  # a proxy's own idea of details: the code and the text still say enough
                return []
    return []
