"""Videos that yield to more urgent ones: the turn, the place among those at work, and what is kept meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from soundstage.denoiser.v1 import denoiser_pb2 as pb

from tests.services.denoiser.conftest import Service, both, serving
from tests.services.denoiser.test_checkpoints import attempt
from tests.services.denoiser.test_loras import file_of, lora
from tests.support.waiting import until

STEPS = 60


class Watched:
    """One call, read in a task of its own."""

    def __init__(self, service: Service, video: str, priority: pb.Priority, **changes: Any) -> None:
        self.step = 0
        self.queued: list[int] = []
        self._call = service.call(attempt=attempt("a1", video), priority=priority, **changes)
        self.read = asyncio.create_task(self._read())

    async def _read(self) -> str:
        async for event in self._call:
            self.step = event.progress.progress.step or self.step
            if event.HasField("queued"):
                self.queued.append(event.queued.before)
        return str(event.result.latents.sha256)


def at_work(service: Service) -> float:
    return service.registry.get_sample_value("soundstage_denoiser_active_videos") or 0.0


async def test_an_urgent_one_has_the_place_of_a_less_urgent_one_and_no_bit_changes(service: Service) -> None:
    """Two places, both taken: it waits for a step, not for a video."""
    service.pacer.seconds = 0.02
    batch = [Watched(service, f"b{seed}", pb.PRIORITY_BATCH, num_inference_steps=STEPS, seed=seed) for seed in (1, 2)]
    await until(lambda: at_work(service) == 2 and max(one.step for one in batch) >= 2)
    urgent = Watched(service, "u", pb.PRIORITY_INTERACTIVE, num_inference_steps=5, seed=3)
    done = await asyncio.wait_for(urgent.read, 60)
    assert not any(one.read.done() for one in batch)
    assert max(one.step for one in batch) < STEPS
    service.pacer.seconds = 0.0
    interrupted = [await one.read for one in batch]
    alone = [
        Watched(service, f"alone{seed}", pb.PRIORITY_STANDARD, num_inference_steps=steps, seed=seed)
        for seed, steps in ((1, STEPS), (2, STEPS), (3, 5))
    ]
    assert [await one.read for one in alone] == [*interrupted, done]


async def test_one_that_gave_up_its_place_is_told_how_many_are_before_it_and_can_be_cancelled(service: Service) -> None:
    service.pacer.seconds = 0.05
    batch = [Watched(service, f"b{seed}", pb.PRIORITY_BATCH, num_inference_steps=STEPS, seed=seed) for seed in (1, 2)]
    await until(lambda: at_work(service) == 2 and max(one.step for one in batch) >= 1)
    urgent = Watched(service, "u", pb.PRIORITY_INTERACTIVE, num_inference_steps=STEPS)
    await until(lambda: urgent.step >= 1)
    await until(lambda: any(one.queued for one in batch))
    (waits,) = (one for one in batch if one.queued)
    assert waits.step > 0
    waits._call.cancel()
    await until(lambda: at_work(service) == 2)
    assert not urgent.read.done()
    service.pacer.seconds = 0.0
    (other,) = (one for one in batch if one is not waits)
    assert await urgent.read
    assert await other.read


async def test_one_with_a_lora_keeps_its_place(models_dir: Path) -> None:
    """Else two of a kind could wait for each other: for a place the one, for the LoRA's memory the other."""
    async with serving(models_dir, both, max_active_videos=1, loras_kept=1) as service:
        one, other = (lora(service, file_of(models_dir, seed), key=f"acme/v{seed}/input/first/l") for seed in (1, 2))
        service.pacer.seconds = 0.01
        batch = Watched(service, "b", pb.PRIORITY_BATCH, num_inference_steps=10, lora=one)
        await until(lambda: batch.step >= 1)
        urgent = Watched(service, "u", pb.PRIORITY_INTERACTIVE, num_inference_steps=2, lora=other)
        assert await asyncio.wait_for(urgent.read, 60)
        assert batch.step == 10


async def test_one_that_yielded_is_kept_when_the_process_is_told_to_end(models_dir: Path) -> None:
    """It makes no step any more in which it could be."""
    async with serving(models_dir, both, checkpoint_every_steps=0, checkpoint_every_seconds=0) as service:
        service.pacer.seconds = 0.1
        batch = Watched(service, "b", pb.PRIORITY_BATCH, num_inference_steps=100)
        await until(lambda: batch.step >= 1)
        urgent = Watched(service, "u", pb.PRIORITY_INTERACTIVE, num_inference_steps=100)
        await until(lambda: urgent.step >= 1)
        assert service.written("b") == []
        service.hurry()
        await until(lambda: service.written("b"))
        (name, *_) = service.written("b")
        assert name.startswith("a1/checkpoint-")
        assert not urgent.read.done()
        for one in (urgent, batch):
            one._call.cancel()
            await asyncio.wait([one.read])
