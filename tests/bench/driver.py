"""The client process: holds the loops of all arms on one event loop and runs one at a time."""

from __future__ import annotations

import signal
from collections.abc import Coroutine
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

import uvloop

from tests.bench.child import answer_calls
from tests.bench.churn import Churn
from tests.bench.closed_loop import ClosedLoop, HeldLoop, Shape, make_sessions
from tests.bench.mixed import MixedLoop
from tests.bench.models import Floats
from tests.bench.open_loop import OpenLoop
from tests.bench.overload import Overload
from tests.bench.sample import Sample
from tests.bench.user_loop import CoalescedUser, UnaryUser
from tests.bench.whole_sequences import PredictLoop

T = TypeVar("T")


class Loop(Protocol):
    async def run(self, seconds: float) -> Sample: ...
    async def close(self) -> None: ...


def run(pipe: Connection) -> None:
    """The main function of the client process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send((True, None))
    answer_calls(pipe, Driver())


def fresh_handles(key: str, count: int) -> list[int]:
    """Handles that no other arm uses, for servers that take any."""
    first = int(key) << 32
    return list(range(first, first + count))


class Driver:
    """What the parent may ask; loops have keys."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._arms: dict[str, Any] = {}

    def open_light(self, key: str, port: int, model: str | None, shape: Shape) -> None:
        """`model` None: a server that takes any handle."""
        handles = (
            fresh_handles(key, shape.sessions)
            if model is None
            else make_sessions(port, model, shape.sessions, tenant=shape.tenant)
        )
        self._arms[key] = arm = ClosedLoop(port, shape, handles)
        self._await(arm.open())

    def open_termed(
        self, key: str, port: int, model: str, shape: Shape, terms: dict[str, Any]
    ) -> None:
        handles = make_sessions(port, model, shape.sessions, tenant=shape.tenant, **terms)
        self._arms[key] = arm = ClosedLoop(port, shape, handles)
        self._await(arm.open())

    def open_held(self, key: str, port: int, sessions: int, state_bytes: int) -> None:
        self._arms[key] = arm = HeldLoop(port, Shape(sessions), state_bytes)
        self._await(arm.open())

    def open_coalesced(self, key: str, port: int, model: str, sessions: int) -> None:
        self._arms[key] = self._await(CoalescedUser.open(port, model, sessions))

    def open_user(self, key: str, port: int, model: str | None, sessions: int) -> None:
        async def make() -> UnaryUser:
            return UnaryUser(port, handles)

        handles = (
            fresh_handles(key, sessions) if model is None else make_sessions(port, model, sessions)
        )
        self._arms[key] = self._await(make())

    def open_predict(self, key: str, port: int, model: str, sequences: int, flying: int) -> None:
        self._arms[key] = arm = PredictLoop(port, model, sequences, flying)
        self._await(arm.open())

    def open_mixed(self, key: str, port: int, model: str, single: int, long: int) -> None:
        self._arms[key] = arm = MixedLoop(port, make_sessions(port, model, single + long), long)
        self._await(arm.open())

    def open_open(self, key: str, port: int, model: str, rate: float) -> None:
        self._arms[key] = arm = OpenLoop(port, make_sessions(port, model, 2048), rate)
        self._await(arm.open())

    def open_overload(
        self, key: str, port: int, model: str, shape: Shape, rate: float, server: int
    ) -> None:
        handles = make_sessions(port, model, shape.sessions)
        self._arms[key] = arm = Overload(port, shape, handles, rate, server)
        self._await(arm.open())

    def open_churn(self, key: str, port: int, model: str, live: int, flying: int) -> None:
        self._arms[key] = arm = Churn(port, model, live, flying)
        self._await(arm.open())

    def outputs(self, key: str, steps: int, sessions: int) -> Floats:
        found: Floats = self._await(self._arms[key].outputs(steps, sessions))
        return found

    def run(self, key: str, seconds: float) -> Sample:
        sample: Sample = self._await(self._arms[key].run(seconds))
        return sample

    def close(self, key: str) -> None:
        self._await(self._arms.pop(key).close())

    def _await(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(awaitable)
