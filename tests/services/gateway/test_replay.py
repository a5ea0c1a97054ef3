"""Videos that run while a new version is deployed go on: recorded histories are replayed by today's workflow.

When one of these fails, a change of `workflow.py` strands running videos: see services/gateway/README.md, "Changing the
workflow". `record_histories.py` makes the recordings.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner
from temporalio.workflow import NondeterminismError

from libs.artifacts import Ref
from services.gateway.video import Stage, VideoKey
from services.gateway.workflow import MakeVideo, VideoWork
from tests.services.gateway.record_histories import HISTORIES, SCENARIOS

RECORDINGS = sorted(HISTORIES.glob("*.json"))
NEW_STEP = "upscale"


def recorded(path: Path) -> WorkflowHistory:
    text = path.read_text()
    started = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]
    return WorkflowHistory.from_json(started["workflowId"], text)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
async def test_recorded_videos_go_on_with_the_workflow_of_today(path: Path) -> None:
    await Replayer(workflows=[MakeVideo]).replay_workflow(recorded(path))


def test_every_kind_of_run_was_recorded() -> None:
    kinds = {path.stem.partition("-")[2] for path in RECORDINGS}
    assert kinds == {scenario.__name__.replace("_", "-") for scenario in SCENARIOS}


@workflow.defn(name="MakeVideo")
class Reordered(MakeVideo):
    """Sound before picture: what nobody must do to videos that run."""

    @workflow.run
    async def run(self, work: VideoWork) -> None:
        await super().run(work)

    async def _make(self, key: VideoKey) -> None:
        conditioning = (await self._stage(Stage.ENCODE, key)).refs["conditioning"]
        await self._stage(Stage.SYNTHESIZE, key, picture=conditioning)


@workflow.defn(name="MakeVideo")
class Longer(MakeVideo):
    """A new step before the rest, done as the README says."""

    @workflow.run
    async def run(self, work: VideoWork) -> None:
        await super().run(work)

    async def _stage(self, stage: Stage, key: VideoKey, **inputs: Ref) -> object:  # type: ignore[override]
        if stage is Stage.RENDER and self._begins_with_a_new_step():
            await workflow.execute_activity(NEW_STEP, key, start_to_close_timeout=timedelta(seconds=1))
        return await super()._stage(stage, key, **inputs)

    def _begins_with_a_new_step(self) -> bool:
        return True


@workflow.defn(name="MakeVideo")
class LongerWithPatch(Longer):
    @workflow.run
    async def run(self, work: VideoWork) -> None:
        await super().run(work)

    def _begins_with_a_new_step(self) -> bool:
        return workflow.patched(NEW_STEP)


@pytest.mark.parametrize("changed", [Reordered, Longer])
async def test_a_change_that_strands_running_videos_is_found(changed: type[MakeVideo]) -> None:
    with pytest.raises(NondeterminismError):
        await replay_all(changed)


async def test_a_change_behind_a_patch_strands_nobody() -> None:
    await replay_all(LongerWithPatch)


async def replay_all(kind: type[MakeVideo]) -> None:
    replayer = Replayer(workflows=[kind], workflow_runner=UnsandboxedWorkflowRunner())
    for path in RECORDINGS:
        await replayer.replay_workflow(recorded(path))
