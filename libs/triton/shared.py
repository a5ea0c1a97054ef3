"""Tensors through system shared memory: for latents 5 to 15 times quicker than through gRPC on one machine."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

__all__ = ["Region", "Regions", "layout"]

SHARED_MEMORY = "/dev/shm"
PREFIX = "soundstage-"
"""Of the names of regions, ours and those of other processes like this one."""
ALIGNMENT = 64
MOST_IDLE = 8
REGISTER_SECONDS = 5.0
UNREGISTER_SECONDS, LONGEST_PAUSE_SECONDS = 600.0, 5.0
"""How long a server is asked to let go of memory that it still uses for a call that was abandoned, and how often."""
CLOSE_SECONDS = 2.0
"""What it still uses when its client ends, the next client frees."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Region:
    """Memory that the server has mapped too, known to it by ``name``."""

    name: str
    memory: SharedMemory

    def write(self, array: NDArray[Any], offset: int) -> None:
        view = np.ndarray(array.shape, array.dtype, buffer=self.memory.buf, offset=offset)
        view[...] = array

    def read(self, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> NDArray[Any]:
        """A copy: the memory goes to the next call."""
        return np.ndarray(shape, dtype, buffer=self.memory.buf, offset=offset).copy()


def layout(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Bytes by name -> offsets by name, and bytes in all."""
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, max(end, 1)


def _has_room(size: int) -> bool:
    """Containers often have 64 MB of it, and writing beyond the end ends the process. Triton takes as much again."""
    space = os.statvfs(SHARED_MEMORY)
    return space.f_bavail * space.f_frsize >= 2 * size


def _created(size: int) -> Region | None:
    """All of it taken at once: what is taken page by page, as it is written, may have gone to others until then.

    None: there is no room.
    """
    name = f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex[:12]}"
    memory = SharedMemory(name, create=True, size=size)
    try:
        with (Path(SHARED_MEMORY) / name).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError:
        memory.close()
        memory.unlink()
        return None
    return Region(name, memory)


class Regions:
    """Those of one pod. A call has a region for itself; calls that end well give theirs back."""

    def __init__(self, client: InferenceServerClient) -> None:
        self._client = client
        self._idle: list[Region] = []
        self._retired: set[asyncio.Task[None]] = set()
        self._freed = self._closed = False

    async def take(self, size: int) -> Region | None:
        """At least ``size`` bytes; None without room. Raises InferenceServerException when the server cannot map it."""
        fitting = [region for region in self._idle if region.memory.size >= size]
        if fitting:
            region = min(fitting, key=lambda region: region.memory.size)
            self._idle.remove(region)
            return region
        return await self._made(size) if _has_room(size) else None

    def give_back(self, region: Region) -> None:
        self._idle.append(region)
        while len(self._idle) > MOST_IDLE:
            self.retire(self._idle.pop(0))

    def retire(self, region: Region) -> None:
        """The server may be writing to it still, into a mapping of its own: only the name goes at once."""
        region.memory.close()
        region.memory.unlink()
        if self._closed:  # a call that was abandoned as its client ended
            return
        task = asyncio.ensure_future(self._unregister(region.name))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def retire_all(self) -> None:
        while self._idle:
            self.retire(self._idle.pop())

    async def close(self) -> None:
        self.retire_all()
        self._closed = True
        if self._retired:
            _, still_used = await asyncio.wait(self._retired, timeout=CLOSE_SECONDS)
            for task in still_used:
                task.cancel()
            await asyncio.gather(*still_used, return_exceptions=True)

    async def _made(self, size: int) -> Region | None:
        if not self._freed:
            await self._free_those_of_the_dead()
        region = _created(size)
        if region is None:
            return None
        try:
            await self._client.register_system_shared_memory(
                region.name, f"/{region.name}", size, client_timeout=REGISTER_SECONDS
            )
        except BaseException:
            self.retire(region)  # the server may have it already, and would keep it
            raise
        return region

    async def _free_those_of_the_dead(self) -> None:
        """A process that was killed told the server nothing, which keeps its memory mapped until somebody does. Its
        files are gone: Python's resource tracker survives it and removes them."""
        status = await self._client.get_system_shared_memory_status(client_timeout=REGISTER_SECONDS)
        self._freed = True
        for name in status.regions:
            if name.startswith(PREFIX) and not (Path(SHARED_MEMORY) / name).exists():
                with suppress(InferenceServerException):
                    await self._client.unregister_system_shared_memory(name, client_timeout=REGISTER_SECONDS)

    async def _unregister(self, name: str) -> None:
        """It fails while the region is in use, and once right after (measured); a server that is gone forgot it."""
        loop = asyncio.get_running_loop()
        ends, pause = loop.time() + UNREGISTER_SECONDS, 0.1
        while loop.time() < ends:
            with suppress(InferenceServerException):
                await self._client.unregister_system_shared_memory(name, client_timeout=REGISTER_SECONDS)
                return
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        _log.warning("shared memory %s stays registered until its server ends", name)
