"""The one table between the error tree and gRPC: `google.rpc.Status` with details, there and back (AIP-193)."""

from __future__ import annotations

from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status

from libs.errors import (
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidRequest,
    NotFound,
    ResourceExhausted,
    SoundstageError,
    Unauthenticated,
    Unavailable,
)

__all__ = ["DETAILS_KEY", "DOMAIN", "STATUS_CODES", "error_from_rpc", "status_of"]

DOMAIN = "soundstage"
DETAILS_KEY = "grpc-status-details-bin"

STATUS_CODES: dict[type[SoundstageError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Internal: grpc.StatusCode.INTERNAL,
}

_USUAL_RETRY_SECONDS: dict[type[SoundstageError], float] = {Unavailable: 1, ResourceExhausted: 5}

# Codes that gRPC itself gives. A call that the server cut off (its stop, a deadline) may be made again.
_FOREIGN_CODES: dict[grpc.StatusCode, type[SoundstageError]] = {
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.ABORTED: FailedPrecondition,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
}

# gRPC refuses more than 8 KiB of metadata, and then the caller gets neither code nor message. In bytes of UTF-8, of
# which a letter may have four; the message goes twice, the second time with three bytes for each that is not ASCII.
_MESSAGE_LIMIT = 600
_VALUE_LIMIT = 120
_VIOLATION_LIMIT = 9

D = TypeVar("D", bound=Message)


def status_of(error: SoundstageError) -> Status:
    """The status that tells ``error``: ErrorInfo always; BadRequest, QuotaFailure and RetryInfo where they fit."""
    status = Status(code=_code_of(error).value[0], message=_short(str(error), _MESSAGE_LIMIT))
    metadata = {key: _short(value, _VALUE_LIMIT) for key, value in error.metadata.items()}
    status.details.add().Pack(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if isinstance(error, InvalidRequest):
        status.details.add().Pack(_bad_request(error))
    if isinstance(error, ResourceExhausted) and error.subject:
        status.details.add().Pack(_quota_failure(error))
    if (seconds := _retry_seconds(error)) is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(round(seconds * 1000))
        status.details.add().Pack(retry)
    return status


def error_from_rpc(error: grpc.aio.AioRpcError) -> SoundstageError:
    """The error that the server raised, as far as the status tells.

    Class by code, reason, metadata, violations, and when asking again may work.
    """
    status = _status_from_metadata(error)
    info = _detail(status, ErrorInfo) or ErrorInfo(reason=error.code().name)
    message = error.details() or error.code().name
    metadata = dict(info.metadata)
    kind = _class_of(error.code())
    if kind is InvalidRequest:
        found = _detail(status, BadRequest) or BadRequest()
        violations = [FieldViolation(v.field, v.description) for v in found.field_violations]
        return InvalidRequest(*(violations or [FieldViolation("request", message)]), reason=info.reason, **metadata)
    retry = _detail(status, RetryInfo)
    retry_seconds = retry.retry_delay.ToTimedelta().total_seconds() if retry else None
    if kind is ResourceExhausted:
        failure = _detail(status, QuotaFailure)
        subject = failure.violations[0].subject if failure and failure.violations else ""
        return ResourceExhausted(message, reason=info.reason, subject=subject, retry_seconds=retry_seconds, **metadata)
    if kind is Unavailable:
        return Unavailable(message, reason=info.reason, retry_seconds=retry_seconds, **metadata)
    return kind(message, reason=info.reason, **metadata)


def _code_of(error: SoundstageError) -> grpc.StatusCode:
    """Row of the nearest class in the table, so that a subclass needs no row of its own."""
    for kind in type(error).__mro__:
        if kind in STATUS_CODES:
            return STATUS_CODES[kind]
    return grpc.StatusCode.INTERNAL


def _class_of(code: grpc.StatusCode) -> type[SoundstageError]:
    ours = {status_code: kind for kind, status_code in STATUS_CODES.items()}
    return ours.get(code) or _FOREIGN_CODES.get(code, Internal)


def _retry_seconds(error: SoundstageError) -> float | None:
    if isinstance(error, ResourceExhausted | Unavailable) and error.retry_seconds is not None:
        return error.retry_seconds
    return next((seconds for kind, seconds in _USUAL_RETRY_SECONDS.items() if isinstance(error, kind)), None)


def _quota_failure(error: ResourceExhausted) -> QuotaFailure:
    violation = QuotaFailure.Violation(
        subject=_short(error.subject, _VALUE_LIMIT), description=_short(str(error), 2 * _VALUE_LIMIT)
    )
    return QuotaFailure(violations=[violation])


def _bad_request(error: InvalidRequest) -> BadRequest:
    shown = error.violations[:_VIOLATION_LIMIT]
    return BadRequest(
        field_violations=[
            BadRequest.FieldViolation(
                field=_short(violation.field, _VALUE_LIMIT), description=_short(violation.description, 2 * _VALUE_LIMIT)
            )
            for violation in shown
        ]
    )


def _status_from_metadata(error: grpc.aio.AioRpcError) -> Status:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return Status.FromString(value)
            except DecodeError:
                return Status()
    return Status()


def _detail(status: Status, kind: type[D]) -> D | None:
    detail = kind()
    return next((detail for any_detail in status.details if any_detail.Unpack(detail)), None)


def _short(text: str, limit: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= limit else encoded[: limit - len("…".encode())].decode(errors="ignore") + "…"
