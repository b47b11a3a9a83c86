"""Answers that cross with the end of their caller, or of the front end between the two.

What is left at the engine is what callers were told of, whenever they go.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from statistics import median
from typing import Any

import grpc
import pytest

from carousel.errors import StoreUnavailable
from carousel.server import receipts
from carousel.server.frontends import relay
from carousel.server.frontends.forwarded import CALLER
from carousel.server.services import SERVICES
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as make
from carousel.v1 import session_service_pb2_grpc as services
from carousel.v1.model_service_pb2 import SetModelAliasRequest
from tests.conftest import RunningServer
from tests.processes import PATIENCE, until
from tests.server.contract import Wire
from tests.server.engines import held_up
from tests.server.frontends.doors import Doors
from tests.server.frontends.test_calls import settle

CALLS, AT_ONCE, COPIES = 240, 6, 3
WHO = ((CALLER, b'["nobody", "", [], "unix:"]'),)
KINDS = ("create", "fork", "import")
OK = {"grpc_type": "unary", "grpc_service": "carousel.v1.SessionService", "grpc_code": "OK"}


def live(server: RunningServer) -> int:
    return len(server.server.hall.engine.table)


@pytest.fixture
def awaited(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Calls at the engine that wait for their receipts, of those that begin from now on."""
    under_way: list[object] = []
    awaiting = receipts.awaiting

    @contextmanager
    def noted() -> Iterator[None]:
        call = object()
        under_way.append(call)
        try:
            with awaiting():
                yield
        finally:
            under_way.remove(call)

    monkeypatch.setattr(receipts, "awaiting", noted)
    return under_way


def told(server: RunningServer, method: str) -> float:
    """Calls of a method that were answered, as far as front ends have told."""
    registry = server.server.metrics.registry
    labels = OK | {"grpc_method": method}
    return registry.get_sample_value("grpc_server_handled_total", labels) or 0.0


def request_of(wire: Wire, kind: str) -> tuple[str, Any]:
    """A call that makes sessions: its method, and its request."""
    if kind == "create":
        return "CreateSession", make.CreateSessionRequest(model="models/tiny")
    source = wire.create()
    if kind == "fork":
        return "ForkSession", make.ForkSessionRequest(name=source.name, count=COPIES)
    exported = wire.sessions.ExportSession(make.ExportSessionRequest(name=source.name))
    return "ImportSession", make.ImportSessionRequest(snapshot=exported.snapshot)


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_sessions_stay_than_calls_were_answered_whenever_deadlines_come(
    server: RunningServer, channels: list[grpc.Channel], awaited: list[object], kind: str
) -> None:
    method, request = request_of(Wire(channels[0]), kind)
    each = COPIES if kind == "fork" else 1
    calls = [getattr(services.SessionServiceStub(channel), method) for channel in channels]
    settle(server, channels)
    before, answered, came = live(server), told(server, method), list[int]()

    def ask(number: int, timeout: float) -> float:
        begin = time.monotonic()
        with suppress(grpc.RpcError):
            calls[number % len(calls)](request, timeout=timeout)
            came.append(number)
        return time.monotonic() - begin

    with ThreadPoolExecutor(AT_ONCE) as threads:
        took = list(threads.map(lambda number: ask(number, PATIENCE), range(AT_ONCE * 4)))
        late = [median(took) * (0.2 + 1.6 * n / CALLS) for n in range(CALLS)]
        list(threads.map(ask, range(CALLS), late))
    until(lambda: not awaited)

    def at_most() -> float:
        return each * (told(server, method) - answered)

    # An answer that has left may cross with its caller's deadline: that leaves what was made.
    until(lambda: each * len(came) <= live(server) - before <= at_most())


@contextmanager
def inside(server: RunningServer) -> Iterator[grpc.Channel]:
    """The private socket, as a front end has it."""
    front_ends = server.server.front_ends
    assert front_ends is not None
    with grpc.insecure_channel(f"unix:{front_ends.socket}") as channel:
        yield channel


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_received", [True, False], ids=["received", "lost"])
def test_what_is_made_stays_with_a_receipt_alone(
    server: RunningServer, channels: list[grpc.Channel], kind: str, is_received: bool
) -> None:
    method, request = request_of(Wire(channels[0]), kind)
    message = session_pb2.Session if kind != "fork" else make.ForkSessionResponse
    before, requests = live(server), SimpleQueue[Any]()
    requests.put(request)
    with inside(server) as channel:
        call = channel.stream_stream(
            f"/carousel.v1.SessionService/{method}",
            request_serializer=request.__class__.SerializeToString,
            response_deserializer=message.FromString,
        )(iter(requests.get, None), metadata=WHO, timeout=PATIENCE)
        next(call)
        assert live(server) > before
        if is_received:
            requests.put(None)
            assert not list(call)
            assert live(server) > before
        else:
            call.cancel()
            until(lambda: live(server) == before)
            requests.put(None)


@pytest.mark.parametrize("kind", ["fork", "import"])
def test_what_the_engine_could_not_keep_is_told_and_does_not_stay(
    server: RunningServer,
    channels: list[grpc.Channel],
    awaited: list[object],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(context: Any) -> None:
        raise StoreUnavailable("the disk is full")

    method, request = request_of(Wire(channels[0]), kind)
    until(lambda: not awaited)  # the source has had its receipt
    before = live(server)
    monkeypatch.setattr(receipts, "ended", refuse)
    with pytest.raises(grpc.RpcError) as failure:
        getattr(Wire(channels[0]).sessions, method)(request, timeout=PATIENCE)
    assert "the disk is full" in str(failure.value)
    until(lambda: live(server) == before)


def test_what_was_made_for_a_front_end_that_is_killed_does_not_stay(
    server: RunningServer, doors: Doors
) -> None:
    victim, _ = doors.pids
    create: Any = Wire(doors.to(victim)).sessions.CreateSession
    engine, before = server.server.hall.engine, live(server)
    with held_up(server):
        flying = create.future(make.CreateSessionRequest(model="models/tiny"))
        until(lambda: len(engine._calls) > 0)
        os.kill(victim, signal.SIGSTOP)  # so that it has not read the answer when it dies
    until(lambda: live(server) > before)
    os.kill(victim, signal.SIGKILL)
    assert flying.exception().code() == grpc.StatusCode.UNAVAILABLE
    until(lambda: live(server) == before)


def test_what_can_not_be_undone_is_not_told_to_be_cancelled(
    server: RunningServer, channels: list[grpc.Channel]
) -> None:
    wire = Wire(channels[0])
    set_alias: Any = wire.models.SetModelAlias
    labels = {
        "grpc_type": "unary",
        "grpc_service": "carousel.v1.ModelService",
        "grpc_method": "SetModelAlias",
    }
    registry, store = server.server.metrics.registry, server.server.hall.store
    request = SetModelAliasRequest(name="models/tiny", alias="crossed", version=1)

    def count(what: str, **more: str) -> float:
        return registry.get_sample_value(f"grpc_server_{what}_total", labels | more) or 0.0

    with store._lock:
        flying = set_alias.future(request)
        until(lambda: count("started") == 1)
        flying.cancel()
    until(lambda: count("handled", grpc_code="OK") == 1)
    assert store.aliases("tiny")["crossed"] == 1


def test_the_methods_that_are_relayed_in_their_own_way_exist() -> None:
    methods = {method.name: method for one in SERVICES.values() for method in one.methods}
    for name in receipts.NEEDED | relay.TO_THE_END:
        assert not methods[name].client_streaming
        assert not methods[name].server_streaming
