"""A session that went on elsewhere while a call about it was under way is told to be so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from carousel.errors import SessionEnded, SessionFenced
from carousel.server import generation
from carousel.server.hall import Hall
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb
from tests.conftest import RunningServer, settings_of
from tests.server.contract import Wire
from tests.server.test_departures import in_engine, until


@pytest.fixture(scope="module")
def servers(
    model_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[RunningServer]]:
    """Two, with one store."""
    data = tmp_path_factory.mktemp("data")
    both = [RunningServer(settings_of(data, store=model_store, shipped=False)) for _ in range(2)]
    yield both
    for server in both:
        server.stop()


@pytest.fixture
def wires(servers: list[RunningServer]) -> Iterator[list[Wire]]:
    channels = [grpc.insecure_channel(server.target) for server in servers]
    yield [Wire(channel) for channel in channels]
    for channel in channels:
        channel.close()


@pytest.fixture
def stale(wires: list[Wire]) -> str:
    """The id of a session that the first server thinks it has, and the second one took over."""
    session = wires[0].create(durability=session_pb2.DURABILITY_SYNC)
    wires[1].sessions.AttachSession(pb.AttachSessionRequest(name=session.name))
    return session.name.removeprefix("sessions/")


def test_what_the_store_said_before_anybody_waited_is_not_missed(
    servers: list[RunningServer], stale: str
) -> None:
    hall = servers[0].server.hall
    made = in_engine(servers[0], lambda: hall.sessions.attach(stale))
    until(lambda: stale not in hall.engine.table.slots)  # the store refused the new incarnation
    with pytest.raises(SessionFenced):
        servers[0].run(hall.secure(stale))
    with pytest.raises(SessionFenced):
        in_engine(servers[0], lambda: generation.secure(hall, made.handle, lambda error: None))


def test_a_session_that_ended_is_not_told_to_be_stored(
    servers: list[RunningServer], wires: list[Wire]
) -> None:
    session = wires[0].create(durability=session_pb2.DURABILITY_SYNC)
    wires[0].sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    with pytest.raises(SessionEnded):
        servers[0].run(servers[0].server.hall.secure(session.name.removeprefix("sessions/")))


@pytest.mark.parametrize(
    "change", [lambda hall: hall.sessions.attach, lambda hall: hall.sessions.touch]
)
def test_a_change_of_a_session_that_went_on_elsewhere_is_refused(
    servers: list[RunningServer],
    stale: str,
    change: Callable[[Hall], Callable[..., session_pb2.Session]],
) -> None:
    hall = servers[0].server.hall
    with pytest.raises(SessionFenced):
        servers[0].run(hall.kept(change(hall), stale, None))
