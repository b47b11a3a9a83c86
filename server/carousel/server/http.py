"""The server's HTTP port: metrics, health, and the page where it is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Metric

from carousel import exposition
from carousel.server.page import Looks, StatusPage
from carousel.server.settings import Settings


def listen(
    settings: Settings,
    registry: CollectorRegistry,
    looks: Looks,
    ready: Callable[[], bool],
    certificate: exposition.Certificate | None,
) -> exposition.HttpServer | None:
    """Where it is wanted, a port that answers from now on; for the event loop. Raises OSError."""
    if settings.http_port is None:
        return None

    def read(patience: float | None) -> list[Metric]:
        """What /metrics shows: the very message that GetStatistics gives."""
        return exposition.families(exposition.statistics(registry))

    routes = exposition.routes(read, ready, shared=True)
    if settings.shows_page:
        routes |= StatusPage(looks, asyncio.get_running_loop()).routes
    server = exposition.HttpServer(
        settings.host, settings.http_port, routes, certificate=certificate
    )
    server.start()
    return server
