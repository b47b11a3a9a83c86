"""What was changed in an audit log is found, and what was cut off is seen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carousel.server.audit.entry import STEPS, encode, read
from carousel.server.audit.folder import parts_in
from carousel.v1 import session_service_pb2 as pb
from tests.conftest import RunningServer, running
from tests.server.audit import entries_of, file_of, inputs, look, refusal, replay
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
    entries = entries_of(file)
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


def test_no_log_lies_elsewhere(wire: Wire, own: RunningServer, tmp_path: Path) -> None:
    for name in ("sessions/..", "sessions/a/../../b", "sessions/"):
        assert refusal(partial(replay, wire, name)).reason == "INVALID_FIELD"
    (own.settings.audit_folder / "linked").symlink_to(tmp_path)
    assert refusal(lambda: replay(wire, "sessions/linked")).reason == "INVALID_FIELD"
    create = partial(wire.create, session_id="linked", audit=True)
    assert refusal(create).reason == "STORE_UNWRITABLE"
    assert not list(tmp_path.iterdir())
