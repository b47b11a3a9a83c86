"""The guard that the settings ask for, where the system lets one look at its own sockets."""

from __future__ import annotations

import sys
from collections.abc import Callable

from carousel.server.access_log import Recorder
from carousel.server.limits import ConnectionLimits
from carousel.server.resets.guard import Guard, ShutOut
from carousel.server.resets.metrics import ResetMetrics
from carousel.server.resets.tally import Tally


def open_guard(
    limits: ConnectionLimits,
    metrics: ResetMetrics,
    recorder: Recorder | None,
    lost: Callable[[], int],
    *,
    server: int,
    port: int,
) -> Guard | None:
    """A guard that has begun, of gRPC's server of this number; None: nobody is shut out."""
    if limits.max_resets is None or sys.platform != "linux":
        return None
    guard = Guard(
        Tally(server),
        port,
        metrics,
        lost,
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
