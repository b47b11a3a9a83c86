"""A session that went on elsewhere while a call about it was under way is told to be so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from carousel import tensors
from carousel.errors import SessionEnded, SessionFenced
from carousel.server import generation
from carousel.server.hall import Hall
from carousel.server.stores import Batch
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb
from carousel.v1.inference_service_pb2 import StepRequest
from carousel.v1.model_service_pb2 import LoadModelVersionRequest, UnloadModelVersionRequest
from tests.conftest import RunningServer, settings_of
from tests.processes import PATIENCE, until
from tests.server.contract import Wire
from tests.server.engines import in_engine


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


@contextmanager
def store_held_up(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is written to the store of sessions is written afterwards."""
    store, go_on = server.server.hall.engine.behind.store, threading.Event()
    assert store is not None
    write = store.write

    def late(batch: Batch) -> list[int]:
        assert go_on.wait(PATIENCE)
        return write(batch)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", late)
        try:
            yield
        finally:
            go_on.set()


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_step_of_a_model_that_is_unloaded_is_told_that_its_session_has_ended(
    servers: list[RunningServer],
    wires: list[Wire],
    monkeypatch: pytest.MonkeyPatch,
    durability: str,
) -> None:
    """Also one that is committed, of which the answer waits for the store."""
    server, wire = servers[0], wires[0]
    kind = session_pb2.Durability.Value(f"DURABILITY_{durability.upper()}")
    session = wire.create(durability=kind)
    name = "models/tiny/versions/1"
    request = StepRequest(
        handles=[session.handle],
        step_indexes=[0],
        inputs=tensors.encode(np.ones((1, 3), np.float32)),
    )
    step: Any = wire.inference.Step
    table = server.server.hall.engine.table
    with store_held_up(server, monkeypatch):
        flying = step.future(request, timeout=PATIENCE)
        slot = table.slot_of(session.handle)
        until(lambda: table.next_index[slot] == 1)
        wire.models.UnloadModelVersion(UnloadModelVersionRequest(name=name, force=True))
    if durability == "async":  # which is answered already; the next one is not
        assert not flying.result().errors
        flying = step.future(request, timeout=PATIENCE)
    [error] = flying.result().errors
    wire.models.LoadModelVersion(LoadModelVersionRequest(name=name))
    assert error.reason == "SESSION_ENDED"
    assert error.metadata["end_reason"] == "DRAINED"


def test_of_a_message_whose_answers_wait_only_what_ended_is_an_error(
    servers: list[RunningServer], wires: list[Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, wire = servers[0], wires[0]
    sync = session_pb2.DURABILITY_SYNC
    stays, ends, stays_too = (wire.create(durability=sync) for _ in range(3))
    handles = [stays.handle, ends.handle, stays_too.handle]
    inputs = np.arange(9, dtype=np.float32).reshape(3, 3)
    request = StepRequest(handles=handles, step_indexes=[0] * 3, inputs=tensors.encode(inputs))
    truth = wire.outputs([wire.create().handle for _ in range(3)], [0] * 3, inputs)
    step: Any = wire.inference.Step
    delete: Any = wire.sessions.DeleteSession
    table = server.server.hall.engine.table
    slots = [table.slot_of(handle) for handle in handles]
    with store_held_up(server, monkeypatch):
        flying = step.future(request, timeout=PATIENCE)
        until(lambda: [table.next_index[slot] for slot in slots] == [1] * 3)
        deleting = delete.future(pb.DeleteSessionRequest(name=ends.name))
        until(lambda: table.slot_of(ends.handle) is None)
    response = flying.result()
    deleting.result()
    assert [(error.item, error.reason) for error in response.errors] == [(1, "SESSION_ENDED")]
    np.testing.assert_allclose(tensors.decode(response.outputs), truth[[0, 2]], rtol=1e-5)
