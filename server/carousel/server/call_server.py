"""The server of calls: gRPC's, with every service behind its gate."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from carousel.exposition import Certificate
from carousel.server import tls
from carousel.server.access.gate import Gate
from carousel.server.access_log import Recorder
from carousel.server.flow import Flows
from carousel.server.guests import add_guests
from carousel.server.heap import Heap
from carousel.server.hot_calls import Handlers, HotCalls
from carousel.server.resets import Counted, Guard
from carousel.server.resets.metrics import ResetMetrics
from carousel.server.rpc import add_service
from carousel.server.rpc_metrics import RpcMetrics
from carousel.server.services import SERVICES
from carousel.server.settings import Settings
from carousel.server.tracing.trace import NO_TRACER, Tracer


class CallServer:
    """Takes the calls of a process: one that serves alone, a front end, or the one behind them."""

    def __init__(
        self,
        options: Sequence[tuple[str, Any]],
        settings: Settings,
        metrics: RpcMetrics,
        gate: Gate,
        recorder: Recorder | None = None,
    ) -> None:
        self.grpc = grpc.aio.server(options=tuple(options))
        self._counted = Counted(self.grpc)
        self.flows = Flows(settings, metrics)
        self._settings = settings
        self._metrics = metrics
        self._gate = gate
        self._recorder = recorder
        self._handlers: Handlers = {}
        self._port = 0
        self._guard: Guard | None = None
        self._watchers: list[asyncio.Task[None]] = []

    def add(
        self,
        servicers: Mapping[str, object],
        health: object,
        *,
        tracer: Tracer = NO_TRACER,
        logged: bool = True,
        for_front_ends: bool = False,
    ) -> None:
        """Serve these, by the names of SERVICES, health, and what tells of them. Raises NoRule."""
        for name, service in SERVICES.items():
            every = (service, servicers[name], self._metrics, self._gate, tracer, self._recorder)
            self._handlers |= add_service(
                self.grpc, *every, flows=self.flows, logged=logged, for_front_ends=for_front_ends
            )
        names = [service.full_name for service in SERVICES.values()]
        shown = (self.grpc, self._gate, names, health, self._recorder)
        add_guests(*shown, channelz=self._settings.channelz)

    async def start(self, address: str, certificate: Certificate | None = None) -> int:
        """Take calls that come to an address: its port, 0 where that can't be; -1 of a socket."""
        try:
            self._port = tls.add_port(self.grpc, address, certificate)
        except RuntimeError:
            return 0
        if self._port:
            await self.grpc.start()
            self.hot = HotCalls(self.grpc, self._handlers)
        return self._port

    def watch(self, resets: ResetMetrics) -> None:
        """Cut streams that stand still, and whoever takes back too many calls.

        What connections leave behind is given back to the system.
        """
        loop = asyncio.get_running_loop()
        self._watchers = [loop.create_task(one) for one in (self.flows.watch(), Heap().watch())]
        about = (self._settings, resets, self._recorder, self.flows, self.hot)
        self._guard = self._counted.guard(*about, port=self._port)

    def unwatch(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()

    async def stop(self, grace: float) -> None:
        """Take no more; calls that run have `grace` seconds."""
        # Nobody new comes in from now on; of a server that has ended nothing can be counted.
        if self._guard is not None:
            await asyncio.to_thread(self._guard.stop)
        await self.grpc.stop(grace)
