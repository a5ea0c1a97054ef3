"""`python -m services.gateway`: runs until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio

from libs.serving import configure_logging, serve, tracing
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import Gateway


async def main() -> None:
    settings = GatewaySettings()
    configure_logging(settings, "gateway")
    gateway = Gateway(settings)
    with tracing(settings, "gateway"):
        await serve(settings, gateway.endpoints, start=gateway.start, stop=gateway.stop)


if __name__ == "__main__":
    asyncio.run(main())
