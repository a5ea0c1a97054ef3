"""A light stage service as a process of its own, told what to be by `StageProcessSettings`.

Whoever started it reads what it does from a journal, one JSON object a line, and can hold its work at a point, or have
it die there, by putting a file into `holds_dir`: see `Holds`.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from libs.artifacts import open_store
from libs.serving import ServiceSettings, Stage, configure_logging, serve
from tests.support.stages import StageServers, stage_endpoints

__all__ = ["Holds", "StageProcessSettings"]

HOLD_PAUSE_SECONDS = 0.01


class StageProcessSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="SOUNDSTAGE_LIGHT_", frozen=True, extra="forbid")

    service: str = ""
    """encoder, denoiser, audio or muxer."""

    journal: Path = Path("journal")
    """Where each point that the work passes is written to."""

    holds_dir: Path = Path("holds")
    """See `Holds`."""

    steps: int = Field(default=2, ge=1)
    """Steps of each stage."""

    step_seconds: float = Field(default=0.05, ge=0)
    """Seconds of each step."""


@dataclass(frozen=True)
class Holds:
    """Files that stop the work of a stage at a point: `{stage}-{point}` holds how the attempts begin that wait there.

    The work waits until the file is gone, or its call is cancelled. With `die` after the attempt, the process ends.
    """

    folder: Path

    def put(self, stage: str, point: str, attempt: str = "", *, die: bool = False) -> None:
        part = self.folder / ".part"
        part.write_text(json.dumps({"attempt": attempt or f"{stage}-", "die": die}))
        part.replace(self._path(stage, point))

    def lift(self, stage: str, point: str) -> None:
        self._path(stage, point).unlink(missing_ok=True)

    def lift_all(self) -> None:
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)

    def wait(self, stage: str, point: str, attempt: str, control: Stage) -> None:
        while (held := self._read(stage, point)) and attempt.startswith(held["attempt"]):
            if held["die"]:
                os._exit(1)
            control.raise_if_cancelled()
            time.sleep(HOLD_PAUSE_SECONDS)

    def _read(self, stage: str, point: str) -> dict[str, Any] | None:
        try:
            held: dict[str, Any] = json.loads(self._path(stage, point).read_text())
        except FileNotFoundError:
            return None
        return held

    def _path(self, stage: str, point: str) -> Path:
        return self.folder / f"{stage}-{point}"


async def main() -> None:
    settings = StageProcessSettings()
    configure_logging(settings, settings.service)
    store = open_store(
        settings.artifacts_url,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
    )
    scripts, holds = StageServers(), Holds(settings.holds_dir)
    journal = os.open(settings.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def at(point: str, request: Any, control: Stage) -> None:
        attempt = request.attempt.attempt
        stage = attempt.partition("-")[0]
        entry = {"video_id": request.attempt.video_id, "stage": stage, "attempt": attempt, "point": point}
        os.write(journal, (json.dumps({**entry, "pid": os.getpid(), "time": time.time()}) + "\n").encode())
        if point in ("begin", "middle"):
            holds.wait(stage, point, attempt, control)

    for name in ("encode", "denoise", "render", "synthesize", "mux"):
        script = getattr(scripts, name)
        script.steps, script.step_seconds, script.at = settings.steps, settings.step_seconds, at
    await serve(settings, [stage_endpoints(store, scripts)[settings.service]])


if __name__ == "__main__":
    asyncio.run(main())
