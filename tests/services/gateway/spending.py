"""Accepts and ends videos of one tenant, several at a time, until it is killed: a process of `test_ledger.py`."""

from __future__ import annotations

import asyncio
import sys
import uuid

from services.gateway.video import Stage, State, Status
from tests.services.gateway.test_ledger import Bank, opened


async def spend(bank: Bank) -> None:
    while True:
        video = await bank.create("acme", 1000, str(uuid.uuid4()))
        if video is None:
            await bank.grant("acme", 1_000_000)
            continue
        index = list(bank.accepted).index(video.key.video_id)
        await bank.change(index, Status(State.RUNNING, Stage.DENOISE, 1, 4))
        await bank.change(index, Status(State.FAILED))
        sys.stdout.write("ended\n")
        sys.stdout.flush()


async def main() -> None:
    async with opened(sys.argv[1]) as bank:
        await asyncio.gather(*(spend(bank) for _ in range(4)))


if __name__ == "__main__":
    asyncio.run(main())
