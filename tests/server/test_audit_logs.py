"""Audit logs on the disk: what is changed is found, what was cut off is seen, what is old goes."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carousel import tensors
from carousel.client import Client, HealthRule
from carousel.errors import CarouselError
from carousel.server.audit.compute import Again
from carousel.server.audit.entry import HEAD, STEPS, encode, read
from carousel.server.audit.folder import newest_life, parts_in
from carousel.server.audit.head import Head
from carousel.server.audit.reader import Scan, scan
from carousel.server.audit.replay import Replay
from carousel.server.audit.retention import Retention
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb
from tests.conftest import RunningServer, settings_of
from tests.processes import until
from tests.server.contract import Floats, Wire, error_of


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


@pytest.fixture(scope="module")
def own(pair: tuple[RunningServer, RunningServer]) -> RunningServer:
    return pair[0]


@pytest.fixture(scope="module")
def wire(own: RunningServer) -> Iterator[Wire]:
    with grpc.insecure_channel(own.target) as channel:
        yield Wire(channel)


def inputs(count: int) -> Floats:
    return np.random.default_rng(count).standard_normal((count, 3)).astype(np.float32)


def replay(wire: Wire, name: str, **fields: object) -> list[pb.ReplaySessionResponse]:
    request = pb.ReplaySessionRequest(name=name, **fields)  # type: ignore[arg-type]
    return list(wire.sessions.ReplaySession(request, timeout=30))


def info(wire: Wire, session: session_pb2.Session) -> session_pb2.Session:
    return wire.sessions.GetSession(pb.GetSessionRequest(name=session.name))


def outputs(responses: list[pb.ReplaySessionResponse]) -> Floats:
    found = [tensors.decode(one.outputs) for one in responses if one.steps]
    return np.concatenate(found)


def refusal(call: Callable[[], object]) -> CarouselError:
    with pytest.raises(grpc.RpcError) as failure:
        call()
    return error_of(failure.value)


def file_of(server: RunningServer, session: session_pb2.Session) -> Path:
    return parts_in(server.settings.audit_folder / session.name.split("/")[1])[-1].path


def look(path: Path) -> Scan:
    """Read a log that nobody writes."""
    return scan(path.parent.name, newest_life(parts_in(path.parent)), None)


def short_log(wire: Wire, server: RunningServer, name: str) -> Path:
    """A head, a state, two steps, the end."""
    session = wire.create(session_id=name, audit=True)
    wire.outputs([session.handle], [0], inputs(2), [2])
    wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    assert replay(wire, session.name)[-1].summary.complete
    return file_of(server, session)


def ended_log(wire: Wire, server: RunningServer, name: str) -> Path:
    """A log with every kind of entry."""
    session = wire.create(session_id=name, audit=True, rewind_depth=1)
    x = inputs(12)
    for index in range(10):
        wire.outputs([session.handle], [index], x[index : index + 1])
        if index == 4:
            replay(wire, session.name, to_step=0)
    back = wire.sessions.RewindSession(pb.RewindSessionRequest(name=session.name, steps=1))
    wire.outputs([back.handle], [9], x[10:], [2])
    wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    assert replay(wire, session.name)[-1].summary.complete
    return file_of(server, session)


def test_a_flip_of_any_byte_is_found(wire: Wire, own: RunningServer) -> None:
    file = short_log(wire, own, "flipped")
    data = file.read_bytes()
    whole = look(file)
    assert whole.complete
    assert not whole.damage
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        file.write_bytes(changed)
        found = look(file)
        assert found.damage, position
        assert not found.complete, position
        assert found.entries < whole.entries, position
    file.write_bytes(data)
    assert not look(file).damage


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_nothing_can_be_taken_out_put_in_or_moved(
    wire: Wire, own: RunningServer, data: st.DataObject
) -> None:
    folder = own.settings.audit_folder / "edited"
    file = parts_in(folder)[-1].path if folder.exists() else ended_log(wire, own, "edited")
    whole = file.read_bytes()
    with file.open("rb") as opened:
        ends = [0, *(placed.end for placed in read(opened))]
    entries = [whole[a:b] for a, b in pairwise(ends)]
    place = data.draw(st.integers(0, len(entries) - 2))
    other = data.draw(st.integers(0, len(entries) - 1).filter(lambda one: one != place))
    edited = list(entries)
    match data.draw(st.sampled_from(["take out", "put in", "swap"])):
        case "take out":
            del edited[place]
        case "put in":
            edited.insert(place, entries[other])
        case _:
            edited[place], edited[other] = edited[other], edited[place]
    try:
        file.write_bytes(b"".join(edited))
        assert look(file).damage or edited == entries
    finally:
        file.write_bytes(whole)


def test_a_tail_that_is_cut_off_is_seen(wire: Wire, own: RunningServer) -> None:
    file = short_log(wire, own, "shortened")
    data = file.read_bytes()
    whole = look(file)
    for length in range(len(data)):
        file.write_bytes(data[:length])
        found = look(file)
        assert not found.complete, length
        assert not found.damage, length  # a crash does the same
        assert found.entries < whole.entries
    file.write_bytes(data[:-50] + bytes(50))  # and some file systems this
    assert not look(file).damage
    # But of this session the server knows that it ended, with a log.
    assert refusal(lambda: replay(wire, "sessions/shortened")).reason == "AUDIT_DAMAGED"
    live = wire.create(session_id="live", audit=True)
    wire.outputs([live.handle], [0], inputs(4), [4])
    assert replay(wire, live.name)[-1].summary.complete
    file = file_of(own, live)
    file.write_bytes(file.read_bytes()[:-170])
    assert refusal(lambda: replay(wire, live.name)).reason == "AUDIT_DAMAGED"


def test_who_computes_the_chain_anew_is_found_by_the_numbers_and_by_a_hash_that_was_kept(
    wire: Wire, own: RunningServer
) -> None:
    file = ended_log(wire, own, "forged")
    before = replay(wire, "sessions/forged")[-1].summary
    with file.open("rb") as opened:
        entries = [placed.entry for placed in read(opened)]
    steps = next(entry for entry in entries if entry.kind == STEPS)
    x = np.frombuffer(steps.payload, "<f4").copy()
    x[0] += 0.5  # an input that was never fed
    steps.payload = x.tobytes()
    forged, chain = b"", bytes(32)
    for entry in entries:
        data, chain = encode(entry, chain)
        forged += data
    file.write_bytes(forged)
    responses = replay(wire, "sessions/forged", verify_only=True)
    [*_, last] = responses
    assert last.summary.mismatches > 0
    assert not responses[0].matches[0]
    assert last.summary.chain != before.chain
    metric = own.server.metrics.registry.get_sample_value("carousel_audit_mismatches_total")
    assert metric == last.summary.mismatches


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
        with file_of(server, session).open("rb") as file:
            entries = [placed.entry for placed in read(file)]
        assert Head.from_payload(entries[0].payload).bit_exact
        steps = [entry for entry in entries if entry.kind == STEPS]
        assert all(len(entry.payload) == entry.steps * (12 + 16) for entry in steps)
        wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
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


def test_no_log_lies_elsewhere(wire: Wire, own: RunningServer, tmp_path: Path) -> None:
    for name in ("sessions/..", "sessions/a/../../b", "sessions/"):
        assert refusal(partial(replay, wire, name)).reason == "INVALID_FIELD"
    (own.settings.audit_folder / "linked").symlink_to(tmp_path)
    assert refusal(lambda: replay(wire, "sessions/linked")).reason == "INVALID_FIELD"
    create = partial(wire.create, session_id="linked", audit=True)
    assert refusal(create).reason == "STORE_UNWRITABLE"
    assert not list(tmp_path.iterdir())


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
        two.server.hall.engine.recorder.writer.ask(lambda: None).result(30)
        assert len(replay(Wire(first), held.name)) == 2
        assert [part.life for part in parts_in(one.settings.audit_folder / "taken")] == [1]


def test_the_head_says_what_computed(wire: Wire, own: RunningServer) -> None:
    session = wire.create(audit=True)
    replay(wire, session.name)
    with file_of(own, session).open("rb") as file:
        first = next(read(file)).entry
    assert first.kind == HEAD
    version = own.server.hall.registry.resolve("models/tiny")
    head = Head.from_payload(first.payload)
    assert (head.model, head.digest) == (version.name, version.digest.hex())
    assert (head.kernel, head.device, head.bit_exact) == (version.kernel.name, "cpu", False)
    assert head.libraries["onnxruntime"]
