"""What names an artifact: a reference to written bytes, and the key that bytes are written under."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

__all__ = ["AttemptPrefix", "Ref", "Stored", "checked_key"]

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Ref:
    """Bytes that were written once: where, what kind, how many, and their SHA-256 (64 lower-case hex digits)."""

    uri: str
    media_type: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Stored:
    """An artifact as a walk through the store finds it. ``modified``: when it was last written, UTC."""

    key: str
    size_bytes: int
    modified: datetime


@dataclass(frozen=True)
class AttemptPrefix:
    """The only place one attempt of one stage may write below."""

    tenant: str
    video_id: str
    stage: str
    attempt: str

    def key(self, name: str) -> str:
        """Key of the artifact ``name``; raises ValueError for a name that would leave the prefix."""
        return checked_key(f"{self.tenant}/{self.video_id}/{self.stage}/{self.attempt}/{name}")


def checked_key(key: str) -> str:
    """Return ``key``, or raise ValueError.

    A key is segments joined by ``/``; each is letters, digits, ``.``, ``_`` or ``-`` and does not begin with ``.``. So
    ``..``, an absolute path, an empty segment and a hidden file are all refused.
    """
    for segment in key.split("/"):
        if not _SEGMENT.fullmatch(segment):
            raise ValueError(
                f"artifact key {key!r}: {segment!r} must be 1 to 128 of A-Z a-z 0-9 . _ - not beginning with ."
            )
    return key
