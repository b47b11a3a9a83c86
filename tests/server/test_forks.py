"""Forks: copies are made once however often they are asked for, and not one by one."""

from __future__ import annotations

import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
import numpy as np
import pytest

from carousel.server import forks
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb
from tests.conftest import RunningServer, running
from tests.processes import PATIENCE, until
from tests.server.contract import Floats, Wire, error_of
from tests.server.engines import held_up

X: Floats = np.random.default_rng(4).standard_normal((4, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def twins(
    model_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[RunningServer]]:
    """Two servers with one store of sessions."""
    data = tmp_path_factory.mktemp("data")
    with (
        running(store=model_store, data=data, shipped=False) as one,
        running(store=model_store, data=data, shipped=False) as two,
    ):
        yield [one, two]


@pytest.fixture
def wires(twins: list[RunningServer]) -> Iterator[list[Wire]]:
    with (
        grpc.insecure_channel(twins[0].target) as one,
        grpc.insecure_channel(twins[1].target) as two,
    ):
        yield [Wire(one), Wire(two)]


def fork(wire: Wire, source: session_pb2.Session, **fields: Any) -> list[session_pb2.Session]:
    request = pb.ForkSessionRequest(name=source.name, **fields)
    return list(wire.sessions.ForkSession(request).sessions)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(grpc.RpcError) as failure:
        call()
    return error_of(failure.value).reason


def live(wire: Wire) -> set[str]:
    listed = wire.sessions.ListSessions(pb.ListSessionsRequest(page_size=1000))
    return {session.name for session in listed.sessions}


def goes_on(wire: Wire, copies: list[session_pb2.Session], truth: Floats) -> None:
    """Each copy takes the step after the first, and gives what `truth` says."""
    handles = [copy.handle for copy in copies]
    outputs = wire.outputs(handles, [1] * len(handles), np.repeat(X[1:2], len(handles), axis=0))
    np.testing.assert_allclose(outputs, np.tile(truth, (len(handles), 1)), rtol=1e-5, atol=1e-6)


def source_of(wire: Wire, **fields: Any) -> tuple[session_pb2.Session, Floats]:
    """A session that has taken a step, and what the next one gives."""
    source, other = wire.create(**fields), wire.create()
    for session in (source, other):
        wire.outputs([session.handle], [0], X[:1])
    return source, wire.outputs([other.handle], [1], X[1:2])


@pytest.mark.parametrize("durability", [session_pb2.DURABILITY_MEMORY, session_pb2.DURABILITY_SYNC])
@pytest.mark.parametrize("chosen", [(), ("twin-a", "twin-b")])
def test_a_fork_that_is_asked_for_again_gives_the_same_copies(
    wires: list[Wire], durability: int, chosen: tuple[str, ...]
) -> None:
    wire = wires[0]
    source, truth = source_of(wire, durability=durability, rewind_depth=2)
    before = live(wire)
    asked = {"count": 5, "session_ids": chosen, "request_id": f"r{durability}"}
    first = fork(wire, source, **asked)
    again = fork(wire, source, **asked)
    assert [copy.name for copy in again] == [copy.name for copy in first]
    assert [copy.name for copy in first[: len(chosen)]] == [f"sessions/{one}" for one in chosen]
    assert live(wire) - before == {copy.name for copy in first}
    assert len(live(wire)) == len(before) + 5
    # What the first answer said, should it still come, is of no use any more.
    response = wire.step([copy.handle for copy in first], [1] * 5, np.repeat(X[1:2], 5, axis=0))
    assert [error.reason for error in response.errors] == ["SESSION_FENCED"] * 5
    # One of them has ended since: that one is made anew.
    wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=first[2].name))
    again = fork(wire, source, **asked)
    assert [copy.name for copy in again] == [copy.name for copy in first]
    goes_on(wire, again, truth)
    # They are in use now.
    assert refused(lambda: fork(wire, source, **asked)) == "SESSION_EXISTS"
    for copy in first:
        wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=copy.name))


def test_copies_of_another_call_are_nobody_elses(wires: list[Wire]) -> None:
    wire = wires[0]
    source, _ = source_of(wire)
    stranger, _ = source_of(wire)

    def mine(session: session_pb2.Session, request_id: str) -> list[session_pb2.Session]:
        return fork(wire, session, session_ids=["mine"], request_id=request_id)

    copies = mine(source, "one")
    assert refused(lambda: mine(source, "")) == "SESSION_EXISTS"
    assert refused(lambda: mine(source, "two")) == "SESSION_EXISTS"
    assert refused(lambda: mine(stranger, "one")) == "SESSION_EXISTS"
    assert refused(lambda: fork(wire, source, request_id="x" * 129)) == "INVALID_FIELD"
    # The source has moved on: what was copied is another state than now.
    wire.outputs([source.handle], [1], X[1:2])
    assert refused(lambda: mine(source, "one")) == "SESSION_EXISTS"
    wire.outputs([copies[0].handle], [1], X[1:2])


@pytest.mark.parametrize("lost", [0, 2])
def test_a_fork_is_asked_for_again_on_another_server(
    twins: list[RunningServer], wires: list[Wire], lost: int
) -> None:
    """Its server was lost before it answered; of its copies `lost` had not come into the store."""
    one, two = wires
    source, truth = source_of(one)
    before = live(two)
    asked = {"count": 5, "request_id": f"lost-{lost}"}
    first = fork(one, source, **asked)
    with closing(sqlite3.connect(twins[0].settings.data_folder / "sessions.db")) as database:
        for copy in first[:lost]:
            name = copy.name.removeprefix("sessions/")
            assert database.execute("DELETE FROM entries WHERE id = ?", (name,)).rowcount == 1
        database.commit()
    two.sessions.AttachSession(pb.AttachSessionRequest(name=source.name, handle=source.handle))
    again = fork(two, source, **asked)
    assert [copy.name for copy in again] == [copy.name for copy in first]
    goes_on(two, again, truth)
    assert live(two) - before == {copy.name for copy in first}


def test_copies_for_a_caller_who_has_gone_do_not_end_those_of_the_next_call(
    twins: list[RunningServer], wires: list[Wire]
) -> None:
    server, wire = twins[0], wires[0]
    source, truth = source_of(wire)
    engine = server.server.hall.engine
    request = pb.ForkSessionRequest(name=source.name, count=3, request_id="again")
    with held_up(server):
        flying = [wire.sessions.ForkSession.future(request) for _ in range(2)]
        until(lambda: len(engine._calls) == 2)
        flying[0].cancel()
    with pytest.raises(grpc.FutureCancelledError):
        flying[0].result()
    copies = list(flying[1].result(PATIENCE).sessions)
    goes_on(wire, copies, truth)


COPIES = 1_000


def calls_of(server: RunningServer, key: str) -> Counter[str]:
    """Calls of functions in Python for a fork into a thousand, in both threads of the server."""
    calls = Counter[str]()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls[frame.f_code.co_qualname] += 1

    async def fork_once() -> None:
        hall = server.server.hall
        await hall.engine.call(sys.setprofile, count)
        sys.setprofile(count)
        try:
            keys = forks.keys_of(key, [], COPIES, "")
            reply = await hall.made(lambda: hall.sessions.fork(key, keys, 0))
        finally:
            sys.setprofile(None)
            await hall.engine.call(sys.setprofile, None)
        assert len(reply.sessions) == COPIES

    server.run(fork_once())
    return calls


@pytest.mark.parametrize(
    "durability", [session_pb2.DURABILITY_MEMORY, session_pb2.DURABILITY_ASYNC]
)
def test_no_function_is_called_for_each_copy(
    twins: list[RunningServer], wires: list[Wire], durability: int
) -> None:
    source = wires[0].create(durability=durability)
    calls = calls_of(twins[0], source.name.removeprefix("sessions/"))
    assert calls
    assert max(calls.values()) < COPIES / 10, calls.most_common(5)


def test_nothing_is_moved_to_make_room_for_copies(
    twins: list[RunningServer], wires: list[Wire]
) -> None:
    source, _ = source_of(wires[0])
    [version] = [one for one in twins[0].server.hall.engine.versions if one.model == "tiny"]
    before = version.arena.capacity, version.replies
    fork(wires[0], source, count=1000)
    assert version.arena.capacity == before[0]
    assert version.replies is before[1]
