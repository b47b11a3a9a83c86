"""Audit logs: what stands in them, what they cost, and what happens when they can't be written."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from carousel.client import Client, HealthRule
from carousel.server.audit import files
from carousel.server.audit.compute import Again
from carousel.server.audit.entry import HEAD, STEPS
from carousel.server.audit.head import Head
from carousel.server.audit.replay import Replay
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb
from tests.conftest import RunningServer, running
from tests.processes import PATIENCE, until
from tests.server.audit import entries_of, file_of, info, inputs, look, outputs, refusal, replay
from tests.server.contract import Wire


@pytest.fixture(scope="module")
def own(model_store: Path) -> Iterator[RunningServer]:
    """A server whose logs have the state again every 8 steps."""
    with running(store=model_store, shipped=False, audit_state_every=8) as server:
        yield server


@pytest.fixture(scope="module")
def wire(own: RunningServer) -> Iterator[Wire]:
    with grpc.insecure_channel(own.target) as channel:
        yield Wire(channel)


def test_the_head_says_what_computed(wire: Wire, own: RunningServer) -> None:
    session = wire.create(audit=True)
    replay(wire, session.name)
    first = entries_of(file_of(own, session))[0]
    assert first.kind == HEAD
    version = own.server.hall.registry.resolve("models/tiny")
    head = Head.from_payload(first.payload)
    assert (head.model, head.digest) == (version.name, version.digest.hex())
    assert (head.kernel, head.device, head.bit_exact) == (version.kernel.name, "cpu", False)
    assert head.libraries["onnxruntime"]


class Counting(Again):
    """Knows how many steps it has computed."""

    steps = 0

    def run(self, inputs, row):  # type: ignore[no-untyped-def]
        Counting.steps += len(inputs)
        return super().run(inputs, row)


def test_a_range_costs_what_lies_between_the_nearest_state_and_its_end(
    wire: Wire, own: RunningServer
) -> None:
    session = wire.create(audit=True)
    for index, x in enumerate(inputs(40)):
        wire.outputs([session.handle], [index], x[None])
    wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    replay(wire, session.name)
    version = own.server.hall.registry.resolve("models/tiny")
    found = look(file_of(own, session))
    list(Replay(found, 37, 39, False, lambda head: Counting(head, version)))
    assert Counting.steps == 39 - 32


def test_a_bit_exact_server_s_steps_come_out_to_the_bit(
    serve: Callable[..., RunningServer],
) -> None:
    terms = {"shipped": False, "load": ("tiny",), "audit_state_every": 8}
    server = serve(bit_exact=True, **terms)
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        session = wire.create(session_id="exact", audit=True)
        others = [wire.create().handle for _ in range(5)]
        x = inputs(60)
        told = [
            wire.outputs(
                [session.handle, *others], [index] * 6, np.repeat(x[index : index + 1], 6, 0)
            )
            for index in range(20)
        ]
        chunk = wire.outputs([session.handle], [20], x[20:], [40])
        responses = replay(wire, session.name)
        truth = np.concatenate([np.stack(told)[:, 0], chunk])
        np.testing.assert_array_equal(outputs(responses), truth)
        assert all(one.exact and all(one.matches) for one in responses if one.steps)
        assert not any(any(one.differences) for one in responses)
        # The log has no outputs of its own: they are what is computed.
        entries = entries_of(file_of(server, session))
        assert Head.from_payload(entries[0].payload).bit_exact
        steps = [entry for entry in entries if entry.kind == STEPS]
        assert all(len(entry.payload) == entry.steps * (12 + 16) for entry in steps)
        wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
        until(lambda: replay(wire, session.name)[-1].summary.complete)
    # A server that is not bit-exact makes the same kernel once more.
    other = serve(**terms)
    with grpc.insecure_channel(other.target) as channel:
        again = replay(Wire(channel), session.name)
    np.testing.assert_array_equal(outputs(again), truth)
    assert again[-1].summary.complete
    assert not again[-1].summary.mismatches


@pytest.mark.parametrize("bit_exact", [True, False])
def test_states_that_rules_of_the_model_set_are_in_the_log(
    serve: Callable[..., RunningServer], bit_exact: bool
) -> None:
    server = serve(
        shipped=False, load=("tiny",), audit_state_every=8, bit_exact=bit_exact, chunk_slice=7
    )
    with grpc.insecure_channel(server.target) as channel, Client(server.target) as client:
        rules = [HealthRule("age", 5, "soft_reset"), HealthRule("state_norm", 0.3, "clip")]
        client.set_health_policy("tiny", rules)
        wire = Wire(channel)
        session = wire.create(audit=True)
        x = inputs(40)
        told = [wire.outputs([session.handle], [i], x[i : i + 1]) for i in range(11)]
        told.append(wire.outputs([session.handle], [11], x[11:], [29]))
        client.set_health_policy("tiny", [])  # what was done stands
        told.append(wire.outputs([session.handle], [40], x[:3], [3]))
        responses = replay(wire, session.name)
    np.testing.assert_array_equal(outputs(responses), np.concatenate(told))
    assert all(all(one.matches) for one in responses)
    adjusted = [r.step_index for r in responses if r.event == pb.AUDIT_EVENT_ADJUSTED]
    assert set(adjusted) >= {5, 10, 15, 20, 25, 30, 35, 40}
    assert len(adjusted) > 8  # the clip, too


def test_a_session_that_is_not_audited_writes_nothing(serve: Callable[..., RunningServer]) -> None:
    server = serve(shipped=False)
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        session = wire.create()
        wire.outputs([session.handle], [0], inputs(9), [9])
        wire.sessions.ResetSession(pb.ResetSessionRequest(name=session.name))
        wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    writer = server.server.hall.engine.recorder.writer
    assert writer.backlog == 0
    assert not server.settings.audit_folder.exists()


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Writing more than so many bytes to a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_the_log_and_not_the_session(serve: Callable[..., RunningServer]) -> None:
    server = serve(shipped=False, durable=False)
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        session, other = (wire.create(audit=True) for _ in range(2))
        x = inputs(200)
        wire.outputs([session.handle], [0], x[:20], [20])
        wire.outputs([other.handle], [0], x[:20], [20])
        replay(wire, session.name)
        size = file_of(server, session).stat().st_size
        with files_up_to(size + 100):
            wire.outputs([session.handle], [20], x[20:], [180])
            until(lambda: not info(wire, session).audited)
            assert refusal(lambda: create_in_vain(wire)).reason == "STORE_UNWRITABLE"
        wire.outputs([session.handle], [200], x[:1])
        metrics = server.server.metrics.registry
        assert metrics.get_sample_value("carousel_audit_failures_total") == 2
        # What was written before holds, and is known to be cut off.
        responses = replay(wire, session.name)
        assert sum(one.steps for one in responses) == 20
        assert not responses[-1].summary.complete
        # Others go on.
        wire.outputs([other.handle], [20], x[20:], [180])
        assert sum(one.steps for one in replay(wire, other.name)) == 200


def create_in_vain(wire: Wire) -> None:
    with files_up_to(10):
        wire.create(session_id="in-vain", audit=True)


def test_who_asks_for_a_log_and_goes_ends_nobody_s(own: RunningServer, wire: Wire) -> None:
    session = wire.create(audit=True)
    writer = own.server.hall.engine.recorder.writer
    go_on = threading.Event()
    busy = writer.ask(lambda: go_on.wait(PATIENCE))
    creating = wire.sessions.CreateSession.future(
        pb.CreateSessionRequest(model="models/tiny", audit=True)
    )
    until(lambda: len(writer._items) == 2)  # the log of the new session, and its caller who waits
    asked = writer._items[-1]
    creating.cancel()
    until(lambda: asked.future.cancelled())  # type: ignore[union-attr]
    go_on.set()
    assert busy.result()
    wire.outputs([session.handle], [0], inputs(1))
    assert info(wire, session).audited
    assert sum(one.steps for one in replay(wire, session.name)) == 1


def test_more_logs_than_files_may_be_open_are_written_and_synced(
    wire: Wire, own: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_OPEN", 3)
    monkeypatch.setattr(files, "FEW", 5)
    first = wire.create(audit=True, durability=session_pb2.DURABILITY_SYNC)
    request = pb.ForkSessionRequest(name=first.name, count=11)
    sessions = [first, *wire.sessions.ForkSession(request).sessions]
    handles = [session.handle for session in sessions]
    x = inputs(12)
    told = [wire.outputs(handles, [index] * 12, np.roll(x, index, 0)) for index in range(3)]
    for place, session in enumerate(sessions):
        assert info(wire, session).durable_index == 3
        # An answer of SYNC is on the disk in both: nothing waits to be written.
        assert sum(entry.steps for entry in entries_of(file_of(own, session))) == 3
        responses = replay(wire, session.name)
        np.testing.assert_array_equal(outputs(responses), np.stack(told)[:, place])
