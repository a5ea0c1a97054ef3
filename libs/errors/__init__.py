"""The errors that cross a service's edge. This file knows nothing of gRPC; `libs.serving.status` maps them, once.

    SoundstageError
     ├─ InvalidRequest       the caller must change the request (field and reason)
     ├─ Unauthenticated      nobody knows who is calling
     ├─ NotFound             what was named does not exist
     ├─ AlreadyExists        the name is taken by something else
     ├─ FailedPrecondition   the request is fine, the state of things is not
     ├─ ResourceExhausted    a limit is reached; later may work
     ├─ Unavailable          a dependency is away for the moment; retrying is right
     └─ Internal             our fault

Every error has a ``reason`` in UPPER_SNAKE_CASE for machines and a message for people that says what to change.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AlreadyExists",
    "FailedPrecondition",
    "FieldViolation",
    "Internal",
    "InvalidRequest",
    "NotFound",
    "ResourceExhausted",
    "SoundstageError",
    "Unauthenticated",
    "Unavailable",
]


@dataclass(frozen=True)
class FieldViolation:
    """One field that must change: its path in the request, for example ``spec.prompt``, and what to do."""

    field: str
    description: str


class SoundstageError(Exception):
    """Base of all. ``metadata`` holds every variable part of the message, for machines."""

    def __init__(self, message: str, *, reason: str, **metadata: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = metadata


class InvalidRequest(SoundstageError):
    """Carries one violation a field."""

    def __init__(self, *violations: FieldViolation, reason: str = "INVALID_FIELD", **metadata: str) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations), reason=reason, **metadata)
        self.violations = violations


class Unauthenticated(SoundstageError):
    pass


class NotFound(SoundstageError):
    pass


class AlreadyExists(SoundstageError):
    pass


class FailedPrecondition(SoundstageError):
    pass


class ResourceExhausted(SoundstageError):
    """``subject``: whose limit it is, for example ``tenant:acme``; empty for one of the process.

    ``retry_seconds``: when asking again may work; None where nothing better than the usual wait is known.
    """

    def __init__(
        self, message: str, *, reason: str, subject: str = "", retry_seconds: float | None = None, **metadata: str
    ) -> None:
        super().__init__(message, reason=reason, **metadata)
        self.subject = subject
        self.retry_seconds = retry_seconds


class Unavailable(SoundstageError):
    """``retry_seconds``: as for ResourceExhausted."""

    def __init__(self, message: str, *, reason: str, retry_seconds: float | None = None, **metadata: str) -> None:
        super().__init__(message, reason=reason, **metadata)
        self.retry_seconds = retry_seconds


class Internal(SoundstageError):
    pass
