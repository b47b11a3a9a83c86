"""AsyncClient: the door to a server, for an event loop."""

# ruff: noqa: ASYNC109 - a timeout is a gRPC deadline here, which the server is told

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from carousel.client import _model_calls as calls
from carousel.client._async_inference import AsyncInference
from carousel.client._async_models import AsyncModels
from carousel.client._async_sessions import AsyncSessions
from carousel.client._async_transport import AsyncTransport
from carousel.client._channel import door
from carousel.client._events import Event, Link
from carousel.client._server_values import ServerInfo, Statistics, TenantQuotas
from carousel.client._times import Seconds
from carousel.client._tls import TLS
from carousel.errors import CarouselError

if TYPE_CHECKING:
    from carousel.client._async_datasets import AsyncDatasets
    from carousel.client._async_jobs import AsyncJobs


class AsyncClient(AsyncSessions, AsyncInference, AsyncModels):
    """A connection to a Carousel server. The tasks of one event loop may share it.

    `target` is as in `localhost:50051`. `timeout` is every call's deadline in seconds, unless the
    call is given its own. `token` is a bearer token; it needs `tls` unless the server is local.
    `tenant` says for whom it works, at most 63 of a-z, 0-9 and '-': tenants share a server evenly.
    `on_event` is called with each `Event`; what it raises is logged and goes no further. The
    connection is made by the first call. `datasets` and `jobs` are for training.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        timeout: float = 30.0,
        tls: TLS | None = None,
        token: str | None = None,
        tenant: str = "",
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.target = target
        self._transport = AsyncTransport(
            door(target, tls, token, tenant), timeout=timeout, link=Link(on_event, tls)
        )
        self._coalescers = {}

    @cached_property
    def datasets(self) -> AsyncDatasets:
        """What models are trained on."""
        from carousel.client._async_datasets import AsyncDatasets

        return AsyncDatasets(self._transport)

    @cached_property
    def jobs(self) -> AsyncJobs:
        """Training jobs."""
        from carousel.client._async_jobs import AsyncJobs

        return AsyncJobs(self._transport)

    async def close(self) -> None:
        """Close the connection. Sessions live on until their ttl unless they were closed."""
        for coalescer in self._coalescers.values():
            await coalescer.close()
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Describe the server and its limits."""
        return await self._transport.call(calls.server_info(), timeout)

    async def quotas(self, *, timeout: float | None = None) -> list[TenantQuotas]:
        """What this client's tenant uses and may use; of all tenants where it has none."""
        return await self._transport.call(calls.quotas(), timeout)

    async def statistics(self, *, timeout: float | None = None) -> Statistics:
        """All of the server's metrics at this moment."""
        return await self._transport.call(calls.statistics(), timeout)

    async def drain(
        self, *, grace: Seconds | None = None, successor: str = "", timeout: float | None = None
    ) -> None:
        """Let the server take nothing new, finish within `grace` seconds, and shut down.

        `successor` is the address of a server with the same store of sessions, to which this one
        sends its callers; without, they wait for whoever listens at its own address next.
        """
        await self._transport.call(calls.drain(grace, successor), timeout)

    async def wait_ready(self, *, timeout: float = 30.0) -> ServerInfo:
        """Wait until the server answers. Raises ServerUnreachable when it does not in time."""
        end = time.monotonic() + timeout
        call = calls.server_info()
        while True:
            left = end - time.monotonic()
            try:
                return await self._transport.call(call, max(left, 0.0), wait_for_ready=True)
            except CarouselError as error:
                calls.check_waiting(error, self.target, end - time.monotonic())
