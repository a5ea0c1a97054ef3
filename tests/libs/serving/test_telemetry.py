from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest

from libs.serving import ServiceSettings, configure_logging


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged, with the root logger put back as it was."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    configure_logging(ServiceSettings(), "encoder", stream=stream)
    yield stream
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level


def _only(lines: io.StringIO) -> dict[str, object]:
    (line,) = lines.getvalue().splitlines()
    return json.loads(line)


def test_a_record_is_one_line_with_its_extras(lines: io.StringIO) -> None:
    logging.getLogger("services.encoder").info("encoded\n%s tokens", 7, extra={"video_id": "v1", "wall_seconds": 0.5})
    line = _only(lines)
    assert datetime.fromisoformat(str(line.pop("time"))).tzinfo is not None
    assert line == {
        "level": "INFO",
        "service": "encoder",
        "logger": "services.encoder",
        "message": "encoded\n7 tokens",
        "video_id": "v1",
        "wall_seconds": 0.5,
    }


def test_an_exception_is_in_the_same_line(lines: io.StringIO) -> None:
    try:
        os.environ["NOTHING_THERE"]
    except KeyError:
        logging.getLogger("x").exception("failed")
    assert "KeyError: 'NOTHING_THERE'" in str(_only(lines)["exception"])


def test_what_json_does_not_know_is_written_as_text(lines: io.StringIO) -> None:
    logging.getLogger("x").warning("odd", extra={"path": object})
    assert "object" in str(_only(lines)["path"])


def test_prompts_are_never_written(lines: io.StringIO) -> None:
    logging.getLogger("x").info("asked", extra={"prompt": "my secret wish", "negative_prompt": "nor this"})
    assert _only(lines)["prompt"] == "<14 characters>"
    assert "secret" not in lines.getvalue()
    assert "nor this" not in lines.getvalue()


def test_less_severe_records_are_left_out(lines: io.StringIO) -> None:
    logging.getLogger("x").debug("detail")
    assert lines.getvalue() == ""


def test_statements_are_no_news(lines: io.StringIO) -> None:
    logging.getLogger("sqlalchemy.engine.Engine").info("SELECT 1")
    assert lines.getvalue() == ""
    logging.getLogger("sqlalchemy.engine.Engine").warning("lost")
    assert _only(lines)["message"] == "lost"


def test_warnings_are_logged(lines: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert "old way" in str(_only(lines)["message"])
