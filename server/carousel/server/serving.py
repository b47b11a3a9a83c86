"""A server that is its process: it runs until a signal has drained it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from carousel.server import logs
from carousel.server.app import Server
from carousel.server.settings import Settings


async def serve(
    settings: Settings, *, on_ready: Callable[[Server], None] = lambda server: None
) -> None:
    """Run a server until SIGTERM or SIGINT has drained it. Raises StartError."""
    logs.configure(level=settings.log_level, style=settings.log_format)
    server = Server(settings)
    await server.start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.interrupt)
    on_ready(server)  # whoever is told may end it at once
    await server.wait()
