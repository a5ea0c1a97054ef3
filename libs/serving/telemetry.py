"""Logs as JSON lines. The only place that configures logging."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from libs.serving.settings import ServiceSettings
from libs.serving.traces import trace_ids

__all__ = ["JsonFormatter", "configure_logging"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# What people ask for is theirs: it does not belong in a log, even where somebody passes it as an extra.
_PRIVATE = frozenset({"prompt", "negative_prompt"})
# These libraries log, at DEBUG, what they are given: every value that is written to the database. At INFO every
# statement, which says nothing and costs a service more than its work.
_INDISCREET = ("aiosqlite", "sqlalchemy.engine")


class JsonFormatter(logging.Formatter):
    """One line a record: time (RFC 3339, UTC), level, service, logger, message, trace (if any), extras, exception."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **trace_ids(),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in line:
                line[name] = f"<{len(str(value))} characters>" if name in _PRIVATE else value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logging(settings: ServiceSettings, service: str, *, stream: TextIO | None = None) -> None:
    """Send every log record of this process as JSON lines to ``stream`` (stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in _INDISCREET:
        logging.getLogger(name).setLevel(max(logging.getLogger().level, logging.WARNING))
