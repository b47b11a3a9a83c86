"""The guard that the settings ask for, where the system lets one look at its own sockets."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import grpc

from carousel.server.access_log import Recorder
from carousel.server.flow import Flows
from carousel.server.limits import ConnectionLimits
from carousel.server.resets.guard import Guard, ShutOut
from carousel.server.resets.metrics import ResetMetrics
from carousel.server.resets.tally import Arrivals, Tally, newest_server

if TYPE_CHECKING:  # which has a witness
    from carousel.server.hot_calls import HotCalls


class Counted:
    """What a server takes up, counted from right after it was made."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._number, self._arrivals = newest_server(), Arrivals()
        server.add_generic_rpc_handlers((self._arrivals,))

    def guard(
        self,
        limits: ConnectionLimits,
        metrics: ResetMetrics,
        recorder: Recorder | None,
        flows: Flows,
        hot: HotCalls,
        *,
        port: int,
    ) -> Guard | None:
        """A guard of the port that has begun; None: nobody is shut out."""
        if limits.max_resets is None or sys.platform != "linux":
            return None
        guard = Guard(
            Tally(self._number),
            port,
            metrics,
            lambda: self._arrivals.count - flows.begun + flows.lost + hot.lost,
            hot.witness,
            most=limits.max_resets,
            seconds=limits.shut_out,
            tell=lambda event: _record(recorder, event),
        )
        guard.start()
        return guard


def _record(recorder: Recorder | None, event: ShutOut) -> None:
    if recorder is not None:
        recorder.shut_out(
            str(event.network),
            resets_per_second=event.resets,
            connections=event.connections,
            seconds=event.seconds,
        )
