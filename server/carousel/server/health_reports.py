"""What health tells: of the server, its services, and `models/{model}` while a version serves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health

from carousel.server.loaded import LoadedVersion
from carousel.server.names import model_name, owner_of
from carousel.server.services import SERVICES


class HealthReports:
    """Of the event loop's thread."""

    def __init__(self) -> None:
        self.servicer = health.HealthServicer()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reported: set[str] = set()  # models that health was told of

    def models(self, versions: Iterable[LoadedVersion]) -> None:
        """These serve now."""
        # Health knows no callers: what a tenant brought in is not told of.
        shared = [v for v in versions if not owner_of(v.model)]
        serving = {v.name for v in shared} | {model_name(v.model) for v in shared}
        self._reported |= serving
        gone = self._reported - serving
        task = asyncio.get_running_loop().create_task(self._report(serving, gone=gone))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def ready(self) -> None:
        """The server and its services serve."""
        await self._report(["", *(service.full_name for service in SERVICES.values())])

    async def going(self) -> None:
        """Nothing serves any more."""
        await self.servicer.enter_graceful_shutdown()

    async def _report(self, names: Iterable[str], *, gone: Iterable[str] = ()) -> None:
        for name in names:
            await self.servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        for name in gone:
            await self.servicer.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
