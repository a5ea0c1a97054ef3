"""Records how real videos ran, for `test_replay.py`: `make histories`.

Each recording is a workflow's history as Temporal's own JSON, made by a real server, a real worker and light stages.
Old recordings stay: they stand for videos that still run when a new version is deployed. Record anew, under the next
version, after a change of `workflow.py`.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from soundstage.video.v1 import video_pb2 as pb

from libs.artifacts import FolderStore
from libs.errors import FailedPrecondition, Unavailable
from services.gateway.runner import TemporalRunner
from tests.services.gateway.conftest import Scene, serving_gateway, settings_for, working
from tests.support.stages import serving_stages
from tests.support.temporal import serving_temporal

HISTORIES = Path(__file__).with_name("histories")


async def succeeded(scene: Scene) -> str:
    return await _ended(scene, (await scene.create()).name)


async def retried(scene: Scene) -> str:
    scene.stages.denoise.errors = [Unavailable("going away", reason="STOPPING")]
    return await _ended(scene, (await scene.create()).name)


async def failed(scene: Scene) -> str:
    scene.stages.render.errors = [FailedPrecondition("the latents do not fit", reason="LATENTS_UNFITTING")]
    return await _ended(scene, (await scene.create()).name)


async def cancelled(scene: Scene) -> str:
    """While a stage is at work."""
    name = await _at_work(scene)
    await scene.stub.CancelVideo(pb.CancelVideoRequest(name=name))
    return await _ended(scene, name)


async def unfinished(scene: Scene) -> str:
    """A video in the middle of its second stage: what a new version finds when it is deployed."""
    return await _at_work(scene)


async def handed_over(scene: Scene) -> str:
    """The worker stops in the middle of a stage and another goes on."""
    worker = scene.settings.model_copy(update={"role": "worker"})
    async with working(worker):
        name = await _at_work(scene)
    scene.stages.denoise.step_seconds = 0.0
    async with working(worker):
        return await _ended(scene, name)


SCENARIOS: tuple[Callable[[Scene], Awaitable[str]], ...] = (
    succeeded,
    retried,
    failed,
    cancelled,
    handed_over,
    unfinished,
)


async def _at_work(scene: Scene) -> str:
    scene.stages.denoise.step_seconds = 10.0
    name = (await scene.create()).name
    await asyncio.to_thread(scene.stages.denoise.began.wait, 60)
    return name


async def _ended(scene: Scene, name: str) -> str:
    await scene.watch(name)
    return name


@asynccontextmanager
async def _scene(folder: Path, temporal: str, role: str) -> AsyncIterator[Scene]:
    async with serving_stages(FolderStore(folder / "artifacts")) as stages:
        queue = f"record-{uuid.uuid4()}"
        settings = settings_for(folder, temporal, stages.address, temporal_task_queue=queue, role=role)
        async with serving_gateway(settings, stages, folder / "artifacts") as scene:
            yield scene


async def record(version: str) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="soundstage-histories-"))
        temporal = stack.enter_context(serving_temporal(Path(folder)))
        for scenario in SCENARIOS:
            path = HISTORIES / f"{version}-{scenario.__name__.replace('_', '-')}.json"
            if path.exists():
                _say(f"{path} is there and stays; give the next version to record anew")
                continue
            here = Path(folder) / scenario.__name__
            here.mkdir()
            async with _scene(here, temporal, "api" if scenario is handed_over else "all") as scene:
                video_id = (await scenario(scene)).removeprefix("videos/")
                path.write_text(await _history(scene, video_id, has_ended=scenario is not unfinished))
            _say(path)


async def _history(scene: Scene, video_id: str, *, has_ended: bool) -> str:
    settings = scene.settings
    runner = TemporalRunner(settings.temporal_address, settings.temporal_namespace, settings.temporal_task_queue)
    client = await runner.connect(10)
    handle = client.get_workflow_handle(video_id)
    if has_ended:
        await asyncio.wait_for(handle.result(), 60)
    history = await handle.fetch_history()
    return history.to_json() + "\n"


def _say(text: object) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("say which version: python -m tests.services.gateway.record_histories v2")
    asyncio.run(record(sys.argv[1]))
