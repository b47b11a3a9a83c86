"""A trace: what one request tells of its way through the server; nothing, where nobody asks.

The services and the engine know these protocols only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import grpc
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Trace(Protocol):
    """Of one request; for any thread. Times are on the clock of time.monotonic."""

    @property
    def is_exported(self) -> bool:
        """Whether it can be looked up by its id."""
        ...

    def ids(self) -> Mapping[str, str]:
        """`trace_id` and `span_id` in hexadecimal, for lines of logs; empty where there is none."""
        ...

    def set_model(self, name: str) -> None:
        """The model version that the request is about."""
        ...

    def stored(self, since: float, *, failed: bool) -> None:
        """What was committed at `since` is in the store now, or could not be brought there."""
        ...

    def end(self, code: grpc.StatusCode, *, reason: str = "") -> None:
        """The call is over; `reason` is that of its error."""
        ...


class Rider(Protocol):
    """Whatever waits for a turn: the work of a message, or a call."""

    trace: Trace
    waiting_since: float


class Tracer(Protocol):
    """Begins traces, and hears of every turn."""

    def begin(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Trace:
        """The trace of a call, which is the current one from now on."""
        ...

    def turn(
        self,
        model: str,
        riders: Sequence[Rider],
        bounds: Ints,
        *,
        begin: float,
        computed: float,
        end: float,
    ) -> None:
        """One turn: rider i rode with the items bounds[i] : bounds[i + 1]."""
        ...

    def close(self) -> None:
        """Let what was told go out, as far as that takes no longer than a few seconds."""
        ...


class Untraced:
    """The trace of a request that nobody traces."""

    is_exported = False

    def ids(self) -> Mapping[str, str]:
        return {}

    def set_model(self, name: str) -> None: ...

    def stored(self, since: float, *, failed: bool) -> None: ...

    def end(self, code: grpc.StatusCode, *, reason: str = "") -> None: ...


class NoTracer:
    """Traces nothing."""

    def begin(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Trace:
        return UNTRACED

    def turn(
        self,
        model: str,
        riders: Sequence[Rider],
        bounds: Ints,
        *,
        begin: float,
        computed: float,
        end: float,
    ) -> None: ...

    def close(self) -> None: ...


UNTRACED: Trace = Untraced()
NO_TRACER: Tracer = NoTracer()

current: ContextVar[Trace] = ContextVar("trace", default=UNTRACED)
"""The trace of the call that is being handled."""


def exported_id(trace: Trace | None = None) -> str | None:
    """The id under which a trace can be looked up, by default the current one; for exemplars."""
    found = current.get() if trace is None else trace
    return found.ids()["trace_id"] if found.is_exported else None
