"""Audit logs of sessions that move, that are lost and that end: who goes on, and what is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from carousel.server.audit.entry import read
from carousel.server.audit.folder import parts_in
from carousel.server.audit.retention import Retention
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb
from tests.conftest import RunningServer, settings_of
from tests.processes import PATIENCE, until
from tests.server.audit import file_of, info, inputs, outputs, refusal, replay
from tests.server.contract import Wire


class Clock:
    """The time of a server, which a test moves."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def pair(
    model_store: Path, tmp_path_factory: pytest.TempPathFactory, clock: Clock
) -> Iterator[tuple[RunningServer, RunningServer]]:
    """Two servers with one folder of data: the first does not know that it was succeeded."""
    data = tmp_path_factory.mktemp("data")
    terms = {"store": model_store, "shipped": False, "audit_state_every": 8, "audit_keep": 1000}
    one, two = (RunningServer(settings_of(data, **terms), clock=clock) for _ in range(2))
    yield one, two
    one.stop()
    two.stop()


def test_another_server_goes_on_with_the_log_in_a_file_of_its_own(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    one, two = pair
    x = inputs(12)
    with (
        grpc.insecure_channel(one.target) as first,
        grpc.insecure_channel(two.target) as second,
    ):
        former, wire = Wire(first), Wire(second)
        session = former.create(session_id="moves", audit=True)
        told = [former.outputs([session.handle], [0], x[:5], [5])]
        until(lambda: info(former, session).durable_index == 5)
        taken = wire.sessions.AttachSession(pb.AttachSessionRequest(name=session.name))
        assert taken.audited
        # Whoever does not know yet writes behind what counts.
        former.step([session.handle], [5], x[:1])
        told.append(wire.outputs([taken.handle], [5], x[5:], [7]))
        responses = replay(wire, session.name)
        np.testing.assert_array_equal(outputs(responses), np.concatenate(told))
        assert all(all(one.matches) for one in responses)
        assert pb.AUDIT_EVENT_RESTORED in [one.event for one in responses]
        assert responses[-1].summary.complete
        assert not responses[-1].summary.missing_steps
        folder = two.settings.audit_folder / "moves"
        assert [part.number for part in parts_in(folder)] == [0, 1]
        # What lies behind counts no less.
        before = parts_in(folder)[0].path
        data = before.read_bytes()
        before.write_bytes(data[:60] + b"?" + data[61:])
        assert refusal(lambda: replay(wire, session.name)).reason == "AUDIT_DAMAGED"
        before.unlink()
        assert refusal(lambda: replay(wire, session.name)).reason == "AUDIT_DAMAGED"


def test_steps_that_a_log_lost_are_told(pair: tuple[RunningServer, RunningServer]) -> None:
    one, two = pair
    with (
        grpc.insecure_channel(one.target) as first,
        grpc.insecure_channel(two.target) as second,
    ):
        former, wire = Wire(first), Wire(second)
        session = former.create(session_id="gap", audit=True)
        for index, x in enumerate(inputs(6)):
            former.outputs([session.handle], [index], x[None])
            replay(former, session.name, to_step=0)
        until(lambda: info(former, session).durable_index == 6)
        file = file_of(one, session)
        with file.open("rb") as opened:
            ends = [placed.end for placed in read(opened)]
        os.truncate(file, ends[-3])
        taken = wire.sessions.AttachSession(pb.AttachSessionRequest(name=session.name))
        wire.outputs([taken.handle], [6], inputs(1))
        responses = replay(wire, session.name)
        assert responses[-1].summary.missing_steps == 2
        assert [(r.step_index, r.missing_steps) for r in responses if r.missing_steps] == [(6, 2)]


def test_steps_that_another_server_has_in_its_own_log_are_told(
    serve: Callable[..., RunningServer], tmp_path: Path
) -> None:
    store = str(tmp_path / "sessions.db")
    one, two = (serve(data=tmp_path / name, session_store=store) for name in ("one", "two"))
    with (
        grpc.insecure_channel(one.target) as first,
        grpc.insecure_channel(two.target) as second,
    ):
        former, wire = Wire(first), Wire(second)
        session = former.create(audit=True, durability=session_pb2.DURABILITY_SYNC)
        former.outputs([session.handle], [0], inputs(5), [5])
        taken = wire.sessions.AttachSession(pb.AttachSessionRequest(name=session.name))
        wire.outputs([taken.handle], [5], inputs(3), [3])
        summary = replay(wire, session.name)[-1].summary
        assert (summary.missing_steps, summary.complete) == (5, True)
        assert replay(wire, session.name, to_step=3)[-1].summary.missing_steps == 3
        summary = replay(former, session.name)[-1].summary
        assert (summary.missing_steps, summary.complete) == (0, False)


def test_a_session_that_nobody_got_leaves_no_log(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    one, two = pair
    with (
        grpc.insecure_channel(one.target) as first,
        grpc.insecure_channel(two.target) as second,
    ):
        held = Wire(first).create(session_id="taken", audit=True)
        Wire(first).outputs([held.handle], [0], inputs(1))
        error = refusal(lambda: Wire(second).create(session_id="taken", audit=True))
        assert error.reason == "SESSION_EXISTS"
        two.server.hall.engine.recorder.writer.ask(lambda: None).result(PATIENCE)
        assert len(replay(Wire(first), held.name)) == 2
        assert [part.life for part in parts_in(one.settings.audit_folder / "taken")] == [1]


def test_logs_are_kept_for_so_long_after_their_sessions(
    pair: tuple[RunningServer, RunningServer], clock: Clock
) -> None:
    one, two = pair
    folder = one.settings.audit_folder
    with grpc.insecure_channel(one.target) as channel:
        wire = Wire(channel)
        sessions = {
            name: wire.create(session_id=name, audit=True) for name in ("over", "resting", "here")
        }
        lost = wire.create(session_id="lost", audit=True, durability=session_pb2.DURABILITY_MEMORY)
        for name in ("over", "here"):
            wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=f"sessions/{name}"))
        sessions["here"] = wire.create(session_id="here", audit=True)  # a second life
        for session in (sessions["resting"], lost):
            one.run(let_go(one, session))
        replay(wire, "sessions/here")

    def kept(server: RunningServer) -> set[str]:
        server.run(Retention(server.server.hall).sweep())
        names = {"over", "resting", "here", "lost"}
        return names & {path.name for path in folder.iterdir()}

    clock.ahead += 900
    assert kept(two) == {"over", "resting", "here", "lost"}
    clock.ahead += 200
    assert kept(one) == {"resting", "here"}
    assert [part.life for part in parts_in(folder / "here")] == [2]
    clock.ahead += 10_000  # its time is up in the store, too
    one.run(one.server.hall.at_rest.sweep(lambda name: False))
    assert "resting" not in kept(two)


async def let_go(server: RunningServer, session: session_pb2.Session) -> None:
    """Let go of a session as a server does that lost it."""
    hall = server.server.hall
    slot = hall.engine.table.slots[session.name.split("/")[1]]
    await hall.engine.call(hall.sessions.lose, slot)
