"""A FailedPrecondition as a line of text, and back, where errors are a code and a text: those of Triton's models."""

from __future__ import annotations

import json

from libs.errors import FailedPrecondition

__all__ = ["MORE_WANTED", "from_text", "to_text"]

MORE_WANTED = "MORE_WANTED"
"""Reason with which a model asks for those inputs that are only sent when it does."""
_MARK = "soundstage: "
# gRPC refuses more than 8 KiB, and JSON makes up to twelve bytes of a letter.
_MESSAGE_LIMIT, _VALUE_LIMIT = 400, 60


def to_text(error: FailedPrecondition) -> str:
    """Long messages and values are cut."""
    metadata = {key: value[:_VALUE_LIMIT] for key, value in error.metadata.items()}
    return _MARK + json.dumps({"reason": error.reason, "message": str(error)[:_MESSAGE_LIMIT], "metadata": metadata})


def from_text(text: str) -> FailedPrecondition | None:
    """None for a text that is of no such error."""
    _, mark, carried = text.partition(_MARK)
    if not mark:
        return None
    said = json.loads(carried)
    return FailedPrecondition(said["message"], reason=said["reason"], **said["metadata"])
