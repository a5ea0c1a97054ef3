"""A whole service as `__main__` of a process, for the test of its end. Its stage takes ``argv[1]`` seconds."""

from __future__ import annotations

import asyncio
import sys
import time

from libs.serving import ServiceSettings, Stage, configure_logging, serve
from tests.libs.serving.echo import EchoEncoder, encoder_endpoint


def work(stage: Stage) -> None:
    stage.progress(1, 2)
    time.sleep(float(sys.argv[1]))
    stage.progress(2, 2)


async def main() -> None:
    settings = ServiceSettings(grace_seconds=float(sys.argv[2]))
    configure_logging(settings, "echo")
    await serve(settings, [encoder_endpoint(EchoEncoder(work))])


if __name__ == "__main__":
    asyncio.run(main())
