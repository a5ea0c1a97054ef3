"""One process a media job, so that a leak or a crash of the media libraries never reaches the server.

The parent writes one JSON line (the job), then raw bytes if the job wants them, to the child's stdin; the child answers
with one JSON line on stdout: the result, or the error it raised.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import libs.errors
from libs.errors import Internal, SoundstageError, Unavailable

__all__ = ["MediaChild", "answer"]

_log = logging.getLogger(__name__)
_ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.05
_LOG_TAIL_BYTES = 4000


class MediaChild:
    """Runs ``python -m module`` and talks to it; leaving the `with` kills and reaps it, whatever happened.

    ``raise_if_cancelled`` is called at least every 0.05 s while the child is waited for. ``timeout_seconds`` bounds
    each write and the wait for the answer; Unavailable MEDIA_TIMEOUT after it.
    """

    def __init__(
        self,
        module: str,
        job: Mapping[str, object],
        *,
        timeout_seconds: float,
        raise_if_cancelled: Callable[[], None],
    ) -> None:
        self._command = [sys.executable, "-m", module]
        self._job = json.dumps(job).encode() + b"\n"
        self._timeout_seconds = timeout_seconds
        self._raise_if_cancelled = raise_if_cancelled

    def __enter__(self) -> Self:
        # Files, not pipes: a child that says a lot can never block on a parent that does not read.
        self._answer: IO[bytes] = tempfile.TemporaryFile()
        self._said: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=self._answer, stderr=self._said, cwd=_ROOT, bufsize=0
        )
        os.set_blocking(self._stdin.fileno(), False)
        try:
            self.write(memoryview(self._job))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._stdin.close()
        self._process.wait()
        self._answer.close()
        self._said.close()

    def write(self, data: memoryview) -> None:
        """Write all of ``data`` (contiguous bytes) to the child; raises what the child answered if it ended instead."""
        deadline = time.monotonic() + self._timeout_seconds
        poll = select.poll()
        poll.register(self._stdin, select.POLLOUT)
        while data:
            ready = poll.poll(_POLL_SECONDS * 1000)
            self._check(deadline)
            if not ready:
                continue
            try:
                data = data[os.write(self._stdin.fileno(), data) :]
            except BrokenPipeError:
                self.result()
                raise Internal("the media process stopped reading", reason="MEDIA_PROCESS_FAILED") from None

    def result(self) -> dict[str, Any]:
        """Say that all is written, wait for the child's end, and return its result or raise its error."""
        self._stdin.close()
        deadline = time.monotonic() + self._timeout_seconds
        while True:
            try:
                self._process.wait(_POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                self._check(deadline)
        return self._read_answer()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _check(self, deadline: float) -> None:
        self._raise_if_cancelled()
        if time.monotonic() > deadline:
            raise Unavailable(
                f"the media process did not answer within {self._timeout_seconds:g} s; try again, or raise "
                "media_timeout_seconds for large pictures",
                reason="MEDIA_TIMEOUT",
            )

    def _read_answer(self) -> dict[str, Any]:
        self._answer.seek(0)
        line = self._answer.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            raise self._crash() from None
        if "error" in answer:
            raise _error_from(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _crash(self) -> Internal:
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - _LOG_TAIL_BYTES))
        said = self._said.read().decode(errors="replace")
        code = self._process.returncode
        _log.error("media process failed", extra={"command": self._command, "exit_code": code, "stderr": said})
        return Internal(f"the media process ended with status {code}", reason="MEDIA_PROCESS_FAILED", status=str(code))


def answer(work: Callable[[dict[str, Any], IO[bytes]], dict[str, object]]) -> None:
    """The child's whole life: read the job, do ``work(job, rest_of_stdin)``, answer with its result or its error."""
    job = json.loads(sys.stdin.buffer.readline())
    try:
        said: dict[str, object] = {"result": work(job, sys.stdin.buffer)}
    except SoundstageError as error:
        said = {
            "error": {
                "kind": type(error).__name__,
                "message": str(error),
                "reason": error.reason,
                "metadata": error.metadata,
            }
        }
    sys.stdout.write(json.dumps(said) + "\n")


def _error_from(said: Mapping[str, Any]) -> SoundstageError:
    kind: type[SoundstageError] = getattr(libs.errors, said["kind"])
    return kind(said["message"], reason=said["reason"], **said["metadata"])
