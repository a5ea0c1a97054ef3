"""What people ask for stays out of every log: whatever happens to it, and at whatever level is logged."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from soundstage.video.v1 import video_pb2 as pb
from sqlalchemy import text

from libs.errors import FailedPrecondition, InvalidRequest, Unavailable
from libs.serving import ServiceSettings, configure_logging
from services.gateway.database import Database
from services.gateway.settings import GatewaySettings
from tests.services.gateway.conftest import Scene, refused, serving_gateway
from tests.support.stages import StageServers

MARKER = "zanzibarquince"
PROMPT = f"a fire of {MARKER} wood"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that this process logs at level DEBUG, as a service would write it: gateway and light stages are in it."""
    stream, root = io.StringIO(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configure_logging(ServiceSettings(log_level="DEBUG"), "test", stream=stream)
    yield stream
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_no_log_of_a_run_holds_a_prompt(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path, logged: io.StringIO
) -> None:
    """A video that succeeds, one that fails, refusals, an analysis, and an error that nobody foresaw."""
    async with serving_gateway(settings_of(stages), stages, tmp_path / "artifacts") as scene:
        made = (await scene.watch((await scene.create(prompt=PROMPT, negative_prompt=MARKER)).name))[-1].video
        assert made.state == pb.STATE_SUCCEEDED
        assert MARKER in made.spec.prompt
        stages.denoise.errors = [FailedPrecondition("bad", reason="CONDITIONING_UNFITTING")]
        await scene.watch((await scene.create(prompt=PROMPT)).name)
        await scene.stub.CancelVideo(
            pb.CancelVideoRequest(name=(await scene.create(prompt=PROMPT)).name, reason=MARKER)
        )
        for spec in ({"prompt": f"{MARKER} porn"}, {"prompt": PROMPT, "width": 17}, {"prompt": MARKER * 200}):
            request = pb.CreateVideoRequest(spec=pb.VideoSpec(**spec))
            assert isinstance(await refused(scene.stub.CreateVideo(request, timeout=60)), InvalidRequest)
        await scene.stub.AnalyzePrompt(pb.AnalyzePromptRequest(prompt=PROMPT), timeout=60)
        await _break_the_tables(scene)
        await refused(scene.stub.CreateVideo(pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT)), timeout=60))
    said = logged.getvalue()
    assert "SUCCEEDED" in said
    assert "FAILED" in said
    assert [line for line in said.splitlines() if MARKER in line] == []


async def test_an_error_of_the_database_does_not_show_what_was_written(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'gateway.db'}")
    with pytest.raises(Unavailable) as caught:
        async with database.write() as session:
            await session.execute(text("INSERT INTO nowhere VALUES (:prompt)"), {"prompt": PROMPT})
    await database.close()
    told = "".join(traceback.format_exception(caught.value))
    assert "INSERT INTO nowhere" in told
    assert MARKER not in told


async def _break_the_tables(scene: Scene) -> None:
    """So that the next insert fails in a way that no code expects."""
    database = Database(scene.settings.database_url)
    async with database.write() as session:
        await session.execute(
            text("CREATE TRIGGER broken BEFORE INSERT ON videos BEGIN SELECT RAISE(ABORT, 'no'); END")
        )
    await database.close()
