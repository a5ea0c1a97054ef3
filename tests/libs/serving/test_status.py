from __future__ import annotations

from urllib.parse import quote

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo

import libs.errors
from libs.errors import (
    FieldViolation,
    Internal,
    InvalidRequest,
    NotFound,
    ResourceExhausted,
    SoundstageError,
    Unavailable,
)
from libs.serving import error_from_rpc, status_of
from libs.serving.status import DETAILS_KEY, STATUS_CODES

ERRORS = [
    thing
    for thing in vars(libs.errors).values()
    if isinstance(thing, type) and issubclass(thing, SoundstageError) and thing is not SoundstageError
]


def _rpc_error(code: grpc.StatusCode, details: str, trailing: bytes | None = None) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(*([(DETAILS_KEY, trailing)] if trailing is not None else []))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details)


def _there_and_back(error: SoundstageError) -> SoundstageError:
    status = status_of(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    return error_from_rpc(_rpc_error(code, status.message, status.SerializeToString()))


def _make(kind: type[SoundstageError]) -> SoundstageError:
    if issubclass(kind, InvalidRequest):
        return kind(FieldViolation("spec.prompt", "is empty"), reason="A_REASON", model="x")
    return kind("what to change", reason="A_REASON", model="x")


def test_every_error_has_a_row_and_no_two_share_a_code() -> None:
    assert set(STATUS_CODES) == set(ERRORS)
    assert len(set(STATUS_CODES.values())) == len(STATUS_CODES)


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_survive_the_wire(kind: type[SoundstageError]) -> None:
    error = _make(kind)
    back = _there_and_back(error)
    assert type(back) is kind
    assert (str(back), back.reason, back.metadata) == (str(error), "A_REASON", {"model": "x"})
    assert getattr(back, "violations", None) == getattr(error, "violations", None)


@pytest.mark.parametrize("kind", ERRORS)
def test_every_status_has_error_info_and_no_detail_twice(kind: type[SoundstageError]) -> None:
    details = status_of(_make(kind)).details
    info = ErrorInfo()
    assert details[0].Unpack(info)
    assert (info.domain, info.reason) == ("soundstage", "A_REASON")
    assert len({detail.type_url for detail in details}) == len(details)
    assert any(detail.Is(BadRequest.DESCRIPTOR) for detail in details) == (kind is InvalidRequest)
    may_retry = kind.__name__ in ("Unavailable", "ResourceExhausted")
    assert any(detail.Is(RetryInfo.DESCRIPTOR) for detail in details) == may_retry


def test_a_limit_says_whose_it_is_and_when_to_come_back() -> None:
    error = ResourceExhausted("too many", reason="TOO_MANY", subject="tenant:acme", retry_seconds=2.5)
    failure = QuotaFailure()
    assert any(detail.Unpack(failure) for detail in status_of(error).details)
    assert [(v.subject, v.description) for v in failure.violations] == [("tenant:acme", "too many")]
    back = _there_and_back(error)
    assert isinstance(back, ResourceExhausted)
    assert (back.subject, back.retry_seconds) == ("tenant:acme", 2.5)


def test_a_subclass_takes_the_row_of_its_base() -> None:
    class NoSuchStage(NotFound):
        pass

    assert status_of(NoSuchStage("x", reason="X")).code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("letter", ["d", "é", "火", "🔥"])
def test_a_huge_error_still_fits_into_metadata(letter: str) -> None:
    violations = [FieldViolation("f" * 500, letter * 5000) for _ in range(500)]
    status = status_of(InvalidRequest(*violations, value=letter * 100_000))
    # In base64, and the message once more as grpc-message, percent-encoded.
    assert len(status.SerializeToString()) * 4 / 3 + len(quote(status.message)) < 8000
    assert status.message.endswith(f"{letter}…")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.CANCELLED, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Unavailable),
        (grpc.StatusCode.UNKNOWN, Internal),
        (grpc.StatusCode.UNIMPLEMENTED, Internal),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
    ],
)
@pytest.mark.parametrize("trailing", [None, b"\xff no status"])
def test_errors_of_grpc_itself_have_no_details(
    code: grpc.StatusCode, kind: type[SoundstageError], trailing: bytes | None
) -> None:
    error = error_from_rpc(_rpc_error(code, "went wrong", trailing))
    assert type(error) is kind
    assert error.reason == code.name
    assert "went wrong" in str(error)
