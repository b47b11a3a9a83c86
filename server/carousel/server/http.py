"""The server's HTTP port: metrics, health, and the page where it is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Metric

from carousel import exposition
from carousel.errors import CarouselError
from carousel.exposition import Answer, Request
from carousel.server.access.gate import Gate
from carousel.server.access_log import Recorder
from carousel.server.http_errors import trouble_of
from carousel.server.page import Looks, StatusPage
from carousel.server.settings import Settings

METRICS = frozenset({"metrics"})
PAGE = frozenset({"metrics", "admin"})


def listen(
    settings: Settings,
    registry: CollectorRegistry,
    looks: Looks,
    ready: Callable[[], bool],
    certificate: exposition.Certificate | None,
    gate: Gate,
    recorder: Recorder | None = None,
) -> exposition.HttpServer | None:
    """Where it is wanted, a port that answers from now on; for the event loop. Raises OSError."""
    if settings.http_port is None:
        return None

    def read(patience: float | None) -> list[Metric]:
        """What /metrics shows: the very message that GetStatistics gives."""
        return exposition.families(exposition.statistics(registry))

    routes = exposition.routes(read, ready, shared=True)
    metrics = routes["/metrics"]

    def asked(request: Request, scopes: frozenset[str]) -> None:
        given = request.headers.get_all("Authorization") or []
        try:
            gate.admit_http(given, request.uris, scopes)
        except CarouselError as error:
            if recorder is not None:
                recorder.refused(request.path, request.peer, error)
            raise

    def guarded(request: Request) -> Answer:
        try:
            asked(request, METRICS)
        except CarouselError as error:
            return trouble_of(error)
        return metrics(request)

    routes["/metrics"] = guarded
    if settings.shows_page:
        loop = asyncio.get_running_loop()
        routes |= StatusPage(looks, loop, lambda request: asked(request, PAGE)).routes
    server = exposition.HttpServer(
        settings.host, settings.http_port, routes, certificate=certificate
    )
    server.start()
    return server
