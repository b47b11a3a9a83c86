"""Client: the door to a server, for threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from carousel.client import _model_calls as calls
from carousel.client._channel import door
from carousel.client._events import Event, Link
from carousel.client._inference import Inference
from carousel.client._models import Models
from carousel.client._server_values import ServerInfo, Statistics, TenantQuotas
from carousel.client._sessions import Sessions
from carousel.client._times import Seconds
from carousel.client._tls import TLS
from carousel.client._transport import Transport
from carousel.errors import CarouselError

if TYPE_CHECKING:
    from carousel.client._datasets import Datasets
    from carousel.client._jobs import Jobs


class Client(Sessions, Inference, Models):
    """A connection to a Carousel server. Threads may share it.

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
        self._transport = Transport(
            door(target, tls, token, tenant), timeout=timeout, link=Link(on_event, tls)
        )

    @cached_property
    def datasets(self) -> Datasets:
        """What models are trained on."""
        from carousel.client._datasets import Datasets

        return Datasets(self._transport)

    @cached_property
    def jobs(self) -> Jobs:
        """Training jobs."""
        from carousel.client._jobs import Jobs

        return Jobs(self._transport)

    def close(self) -> None:
        """Close the connection. Sessions live on until their ttl unless they were closed."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Describe the server and its limits."""
        return self._transport.call(calls.server_info(), timeout)

    def quotas(self, *, timeout: float | None = None) -> list[TenantQuotas]:
        """What this client's tenant uses and may use; of all tenants where it has none."""
        return self._transport.call(calls.quotas(), timeout)

    def statistics(self, *, timeout: float | None = None) -> Statistics:
        """All of the server's metrics at this moment."""
        return self._transport.call(calls.statistics(), timeout)

    def drain(
        self, *, grace: Seconds | None = None, successor: str = "", timeout: float | None = None
    ) -> None:
        """Let the server take nothing new, finish within `grace` seconds, and shut down.

        `successor` is the address of a server with the same store of sessions, to which this one
        sends its callers; without, they wait for whoever listens at its own address next.
        """
        self._transport.call(calls.drain(grace, successor), timeout)

    def wait_ready(self, *, timeout: float = 30.0) -> ServerInfo:
        """Wait until the server answers. Raises ServerUnreachable when it does not in time."""
        end = time.monotonic() + timeout
        call = calls.server_info()
        while True:
            left = end - time.monotonic()
            try:
                return self._transport.call(call, max(left, 0.0), wait_for_ready=True)
            except CarouselError as error:
                calls.check_waiting(error, self.target, end - time.monotonic())
