"""Durable sessions: what one server committed, another with the same store goes on with.

Two servers run at once: the first stands for one that was killed, paused or cut off, and does not
know that it was succeeded.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import pytest
import torch

from carousel.model import load, save
from carousel.server import records
from carousel.v1 import admin_service_pb2 as admin
from carousel.v1 import admin_service_pb2_grpc, session_pb2
from carousel.v1 import inference_service_pb2 as steps
from carousel.v1 import session_service_pb2 as pb
from tests.conftest import RunningServer
from tests.processes import until
from tests.server.contract import Floats, Wire, error_of


class Pair(NamedTuple):
    """Two servers with one store of sessions."""

    one: Wire
    two: Wire
    servers: tuple[RunningServer, RunningServer]
    database: Path


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
) -> Iterator[Pair]:
    from tests.conftest import settings_of

    data = tmp_path_factory.mktemp("data")
    servers = tuple(
        RunningServer(settings_of(data, store=model_store, shipped=False), clock=clock)
        for _ in range(2)
    )
    one, two = servers
    with (
        grpc.insecure_channel(one.target) as first,
        grpc.insecure_channel(two.target) as second,
    ):
        yield Pair(Wire(first), Wire(second), (one, two), data / "sessions.db")
    for server in servers:
        server.stop()


def inputs(count: int) -> Floats:
    return np.random.default_rng(count).standard_normal((count, 3)).astype(np.float32)


def attach(wire: Wire, name: str, **fields: int) -> session_pb2.Session:
    return wire.sessions.AttachSession(pb.AttachSessionRequest(name=name, **fields))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(grpc.RpcError) as failure:
        call()
    return error_of(failure.value).reason


def stored(wire: Wire, session: session_pb2.Session) -> None:
    """Wait until everything of a session is in the store."""

    def is_stored() -> bool:
        now = wire.sessions.GetSession(pb.GetSessionRequest(name=session.name))
        return now.durable_index == now.step_index

    until(is_stored)


def same(actual: Floats, expected: Floats) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_another_server_goes_on_with_the_same_numbers_and_fences_the_first(pair: Pair) -> None:
    x = inputs(8)
    whole = pair.one.create()
    truth = pair.one.outputs([whole.handle], [0], x, [8])
    session = pair.one.create()
    assert session.durability == session_pb2.DURABILITY_ASYNC
    same(pair.one.outputs([session.handle], [0], x[:4], [4]), truth[:4])
    stored(pair.one, session)
    taken = attach(pair.two, session.name, handle=session.handle, durable_index=4)
    assert (taken.step_index, taken.durable_index) == (4, 4)
    same(pair.two.outputs([taken.handle], [4], x[4:6], [2]), truth[4:6])
    # The first server does not know yet; what it commits never reaches the store, and it lets go.
    pair.one.step([session.handle], [4], x[:1])

    def is_fenced() -> bool:
        errors = pair.one.step([session.handle], [5], x[:1]).errors
        return bool(errors) and errors[0].reason == "SESSION_FENCED"

    until(is_fenced)
    same(pair.two.outputs([taken.handle], [6], x[6:], [2]), truth[6:])


@pytest.mark.parametrize("with_handle", [True, False])
def test_a_session_comes_back_to_a_server_that_does_not_know_that_it_was_away(
    pair: Pair, with_handle: bool
) -> None:
    x = inputs(6)
    truth = pair.one.outputs([pair.one.create().handle], [0], x, [6])
    session = pair.one.create(durability=session_pb2.DURABILITY_SYNC)
    same(pair.one.outputs([session.handle], [0], x[:2], [2]), truth[:2])
    away = attach(pair.two, session.name, handle=session.handle, durable_index=2)
    same(pair.two.outputs([away.handle], [2], x[2:4], [2]), truth[2:4])
    handle = {"handle": away.handle} if with_handle else {}
    if with_handle:  # calls that name a handle which this server has never heard of
        reset = pb.ResetSessionRequest(name=session.name, **handle)
        assert refused(lambda: pair.one.sessions.ResetSession(reset)) == "SESSION_AT_REST"
    back = attach(pair.one, session.name, durable_index=4, **handle)
    assert back.step_index == 4
    same(pair.one.outputs([back.handle], [4], x[4:], [2]), truth[4:])


def test_a_server_that_a_session_left_tells_no_old_state_and_ends_the_present_one(
    pair: Pair,
) -> None:
    session = pair.one.create(durability=session_pb2.DURABILITY_SYNC)
    pair.one.outputs([session.handle], [0], inputs(1))
    away = attach(pair.two, session.name, handle=session.handle, durable_index=1)
    pair.two.outputs([away.handle], [1], inputs(3), [3])
    name, one = session.name, pair.one.sessions
    seen = one.GetSession(pb.GetSessionRequest(name=name))
    assert (seen.step_index, seen.durable_index) == (4, 4)
    back = attach(pair.one, session.name)
    away = attach(pair.two, session.name, handle=back.handle, durable_index=4)
    assert refused(lambda: one.ForkSession(pb.ForkSessionRequest(name=name))) == "SESSION_AT_REST"
    back = attach(pair.one, session.name)
    away = attach(pair.two, session.name, handle=back.handle, durable_index=4)
    export = pb.ExportSessionRequest(name=name)
    assert refused(lambda: one.ExportSession(export)) == "SESSION_AT_REST"
    back = attach(pair.one, session.name)
    away = attach(pair.two, session.name, handle=back.handle, durable_index=4)
    stale = pb.DeleteSessionRequest(name=name, handle=back.handle)
    assert refused(lambda: one.DeleteSession(stale)) == "SESSION_FENCED"
    back = attach(pair.one, session.name)
    away = attach(pair.two, session.name, handle=back.handle, durable_index=4)
    one.DeleteSession(pb.DeleteSessionRequest(name=name))
    assert refused(lambda: attach(pair.two, session.name)) == "SESSION_ENDED"
    assert pair.two.step([away.handle], [4], inputs(1)).errors


def test_only_the_holder_goes_on_with_a_handle(pair: Pair) -> None:
    session = pair.one.create()
    other = attach(pair.one, session.name)
    going_on = partial(attach, pair.two, session.name, handle=session.handle)
    assert refused(going_on) == "SESSION_FENCED"
    # The answer to an attach may be lost: until the next step the same holder may ask again.
    attach(pair.two, session.name, handle=other.handle)
    mine = attach(pair.one, session.name, handle=other.handle)
    pair.one.outputs([mine.handle], [0], inputs(1))
    assert refused(partial(attach, pair.one, session.name, handle=other.handle)) == "SESSION_FENCED"


def test_durable_steps_that_are_missing_are_reported_lost(pair: Pair) -> None:
    session = pair.one.create()
    pair.one.outputs([session.handle], [0], inputs(2), [2])
    stored(pair.one, session)
    known = {"handle": session.handle, "durable_index": 3}
    assert refused(lambda: attach(pair.two, session.name, **known)) == "STEPS_LOST"
    lost = pb.AttachSessionRequest(name="sessions/never-was", durable_index=1)
    assert refused(lambda: pair.two.sessions.AttachSession(lost)) == "STEPS_LOST"
    gone = pb.AttachSessionRequest(name="sessions/never-was")
    assert refused(lambda: pair.two.sessions.AttachSession(gone)) == "SESSION_NOT_FOUND"
    request = steps.StepRequest(handles=[session.handle], step_indexes=[2], durable_indexes=[3])
    request.inputs.CopyFrom(tensor(inputs(1)))
    [error] = pair.one.inference.Step(request).errors
    assert error.reason == "STEPS_LOST"


def tensor(x: Floats):  # type: ignore[no-untyped-def]
    from carousel import tensors

    return tensors.encode(x)


def test_the_last_reply_comes_back_with_the_session(pair: Pair) -> None:
    x = inputs(5)
    session = pair.one.create()
    pair.one.outputs([session.handle], [0], x[:2], [2])
    chunk = pair.one.outputs([session.handle], [2], x[2:], [3])
    stored(pair.one, session)
    taken = attach(pair.two, session.name)
    np.testing.assert_array_equal(pair.two.outputs([taken.handle], [2], x[2:], [3]), chunk)
    # Of a longer chunk that was half done when the server was lost, the rest runs.
    longer = np.concatenate([x[2:], inputs(2)])
    both = pair.two.outputs([taken.handle], [2], longer, [5])
    np.testing.assert_array_equal(both[:3], chunk)
    assert pair.two.sessions.GetSession(pb.GetSessionRequest(name=session.name)).step_index == 7


def test_the_last_output_of_a_chunk_comes_back_where_no_others_were_asked_for(pair: Pair) -> None:
    x, last = inputs(5), steps.OUTPUT_MODE_LAST
    session = pair.one.create()
    output = pair.one.outputs([session.handle], [0], x, [5], last)
    stored(pair.one, session)
    taken = attach(pair.two, session.name)
    np.testing.assert_array_equal(pair.two.outputs([taken.handle], [0], x, [5], last), output)
    [error] = pair.two.step([taken.handle], [0], x[:1]).errors
    assert error.reason == "STEP_CONFLICT"
    assert pair.two.sessions.GetSession(pb.GetSessionRequest(name=session.name)).step_index == 5


def test_an_end_is_known_everywhere(pair: Pair) -> None:
    session = pair.one.create()
    pair.one.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    assert refused(lambda: attach(pair.two, session.name)) == "SESSION_ENDED"
    known = pair.two.sessions.GetSession(pb.GetSessionRequest(name=session.name))
    assert known.end_reason == session_pb2.END_REASON_CLOSED
    resting = pair.one.create()
    pair.two.sessions.DeleteSession(pb.DeleteSessionRequest(name=resting.name))
    until(
        lambda: (
            refused(
                lambda: pair.two.sessions.DeleteSession(pb.DeleteSessionRequest(name=resting.name))
            )
            == "SESSION_ENDED"
        )
    )


def test_an_id_is_taken_on_all_servers_until_its_session_ends(pair: Pair) -> None:
    session = pair.one.create(session_id="shared-id")
    assert refused(lambda: pair.two.create(session_id="shared-id")) == "SESSION_EXISTS"
    pair.one.outputs([session.handle], [0], inputs(1))  # and the first is none the worse for it
    pair.one.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    again = pair.two.create(session_id="shared-id")
    assert again.step_index == 0
    assert refused(lambda: attach(pair.one, again.name, handle=session.handle)) == "SESSION_FENCED"
    pair.two.sessions.DeleteSession(pb.DeleteSessionRequest(name=again.name))


def test_sessions_at_rest_are_listed_described_and_must_be_attached(pair: Pair) -> None:
    session = pair.one.create(session_id="resting")
    pair.one.outputs([session.handle], [0], inputs(3), [3])
    stored(pair.one, session)
    seen = pair.two.sessions.GetSession(pb.GetSessionRequest(name=session.name))
    assert (seen.step_index, seen.tier) == (3, session_pb2.SESSION_TIER_STORE)
    assert seen.state_bytes == session.state_bytes
    listed = []
    token = ""
    while True:
        page = pair.two.sessions.ListSessions(pb.ListSessionsRequest(page_size=2, page_token=token))
        listed += [one.name for one in page.sessions]
        token = page.next_page_token
        if not token:
            break
    assert session.name in listed
    assert listed == sorted(set(listed))
    for call in (
        lambda: pair.two.sessions.ExportSession(pb.ExportSessionRequest(name=session.name)),
        lambda: pair.two.sessions.ForkSession(pb.ForkSessionRequest(name=session.name)),
        lambda: pair.two.sessions.TouchSession(pb.TouchSessionRequest(name=session.name)),
        lambda: pair.two.sessions.ResetSession(pb.ResetSessionRequest(name=session.name)),
    ):
        assert refused(call) == "SESSION_AT_REST"


def test_kept_states_and_bookmarks_survive(pair: Pair) -> None:
    x = inputs(6)
    session = pair.one.create(rewind_depth=2)
    pair.one.outputs([session.handle], [0], x[:1])
    pair.one.sessions.BookmarkSession(pb.BookmarkSessionRequest(name=session.name, bookmark="one"))
    truth = pair.one.outputs([session.handle], [1], x[1:], [5])
    stored(pair.one, session)
    taken = attach(pair.two, session.name)
    assert [(mark.name, mark.step_index) for mark in taken.bookmarks] == [("one", 1)]
    for request, index in (
        (pb.RewindSessionRequest(name=session.name, steps=2), 4),
        (pb.RewindSessionRequest(name=session.name, bookmark="one"), 1),
    ):
        back = pair.two.sessions.RewindSession(request)
        assert back.step_index == index
        same(
            pair.two.outputs([back.handle], [index], x[index : index + 1]), truth[index - 1 : index]
        )
    # What a rewind left behind is what the store has.
    stored(pair.two, session)
    again = attach(pair.one, session.name)
    assert again.step_index == 2
    same(pair.one.outputs([again.handle], [2], x[2:3]), truth[1:2])


def test_answers_of_sync_sessions_are_in_the_store(pair: Pair) -> None:
    session = pair.one.create(durability=session_pb2.DURABILITY_SYNC)
    x = inputs(6)
    for index in range(3):
        response = pair.one.step([session.handle], [index], x[index : index + 1])
        assert list(response.durable_indexes) == [index + 1]
        resting = pair.two.sessions.GetSession(pb.GetSessionRequest(name=session.name))
        assert resting.step_index == index + 1
    response = pair.one.step([session.handle], [3], x[3:], [3])
    assert list(response.durable_indexes) == [6]
    assert list(response.lengths) == [3]


def test_sessions_of_memory_stay_where_they_are(pair: Pair) -> None:
    session = pair.one.create(durability=session_pb2.DURABILITY_MEMORY)
    pair.one.outputs([session.handle], [0], inputs(1))
    assert refused(lambda: attach(pair.two, session.name)) == "SESSION_NOT_FOUND"


def test_a_store_that_fails_loses_nothing_and_is_told_of(pair: Pair) -> None:
    x = inputs(4)
    truth = pair.one.outputs([pair.one.create().handle], [0], x, [4])
    session = pair.one.create()
    waiting = pair.one.create(durability=session_pb2.DURABILITY_SYNC)
    with closing(sqlite3.connect(pair.database, isolation_level=None)) as database:
        database.execute("ALTER TABLE entries RENAME TO away")
        try:
            # Sessions of ASYNC go on from memory, those of SYNC are told that nothing is stored.
            same(pair.one.outputs([session.handle], [0], x[:1]), truth[:1])
            [error] = pair.one.step([waiting.handle], [0], x[:1]).errors
            assert error.reason == "STORE_UNAVAILABLE"
            same(pair.one.outputs([session.handle], [1], x[1:2]), truth[1:2])
            assert refused(pair.one.create) == "STORE_UNAVAILABLE"
            assert pair.one.create(durability=session_pb2.DURABILITY_MEMORY).handle
            assert refused(lambda: attach(pair.two, session.name)) == "STORE_UNAVAILABLE"
            assert not info(pair.servers[0]).store.healthy
        finally:
            database.execute("ALTER TABLE away RENAME TO entries")
    until(lambda: info(pair.servers[0]).store.healthy)
    # The step that was refused is committed in memory: sent again, it is answered from there.
    same(pair.one.outputs([waiting.handle], [0], x[:1]), truth[:1])
    stored(pair.one, session)
    taken = attach(pair.two, session.name, handle=session.handle, durable_index=2)
    same(pair.two.outputs([taken.handle], [2], x[2:], [2]), truth[2:])


def info(server: RunningServer) -> admin.ServerInfo:
    with grpc.insecure_channel(server.target) as channel:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        return stub.GetServerInfo(admin.GetServerInfoRequest())


def test_time_goes_on_for_sessions_at_rest(pair: Pair, clock: Clock) -> None:
    from google.protobuf import duration_pb2

    idle = pair.one.create(ttl=duration_pb2.Duration(seconds=100))
    old = pair.one.create(lifetime=duration_pb2.Duration(seconds=100))
    for session in (idle, old):
        pair.one.outputs([session.handle], [0], inputs(1))
        stored(pair.one, session)
        attach(pair.two, session.name)  # the first server lets go
    kept = pair.one.create()
    # 24 hours for which nobody was there: not even the server that had them.
    for session in (idle, old):
        slot = pair.servers[1].server.hall.engine.table.slots[session.name.split("/")[1]]
        pair.servers[1].run(drop(pair.servers[1], slot))
    clock.ahead += 101
    assert refused(lambda: attach(pair.one, idle.name)) == "SESSION_ENDED"
    for server in pair.servers:
        server.run(
            server.server.hall.at_rest.sweep(server.server.hall.engine.table.slots.__contains__)
        )
    reasons = [
        pair.two.sessions.GetSession(pb.GetSessionRequest(name=session.name)).end_reason
        for session in (idle, old)
    ]
    assert reasons == [session_pb2.END_REASON_IDLE, session_pb2.END_REASON_LIFETIME]
    pair.one.outputs([kept.handle], [0], inputs(1))


async def drop(server: RunningServer, slot: int) -> None:
    """Let go of a session as a server does that lost it."""
    hall = server.server.hall
    await hall.engine.call(hall.sessions.lose, slot)


def test_no_flipped_bit_and_no_torn_record_is_restored(pair: Pair) -> None:
    session = pair.one.create(session_id="damaged")
    pair.one.outputs([session.handle], [0], inputs(2), [2])
    stored(pair.one, session)
    with closing(sqlite3.connect(pair.database, isolation_level=None)) as database:
        [(data,)] = database.execute("SELECT data FROM entries WHERE id = 'damaged'")

        def put(record: bytes) -> None:
            database.execute("UPDATE entries SET data = ? WHERE id = 'damaged'", (record,))

        positions = np.random.default_rng(1).integers(0, len(data), 40).tolist()
        for position in [0, len(data) - 1, *positions]:
            flipped = bytearray(data)
            flipped[position] ^= 1 << position % 8
            put(bytes(flipped))
            assert refused(lambda: attach(pair.two, session.name)) == "SNAPSHOT_DAMAGED"
        for length in (0, 3, 16, len(data) // 2, len(data) - 1):
            put(data[:length])
            assert refused(lambda: attach(pair.two, session.name)) == "SNAPSHOT_DAMAGED"
        other = pair.one.create()
        stored(pair.one, other)
        # A record that belongs to another session.
        put(
            database.execute(
                "SELECT data FROM entries WHERE id = ?", (other.name.split("/")[1],)
            ).fetchone()[0]
        )
        assert refused(lambda: attach(pair.two, session.name)) == "SNAPSHOT_DAMAGED"
        put(data)
    assert attach(pair.two, session.name).step_index == 2


def test_a_record_whose_checksum_holds_and_that_says_nonsense_is_damaged(pair: Pair) -> None:
    session = pair.one.create(session_id="nonsense")
    pair.one.outputs([session.handle], [0], inputs(2), [2])
    stored(pair.one, session)
    with closing(sqlite3.connect(pair.database, isolation_level=None)) as database:
        [(data,)] = database.execute("SELECT data FROM entries WHERE id = 'nonsense'")
        body = data[: -records.CHECKSUM_BYTES]
        [head] = np.frombuffer(body, records.HEADER, 1)
        plain, tail = body[: -int(head["tail"])], body[-int(head["tail"]) :]

        def with_tail(**more: object) -> bytes:
            changed = np.array([head])
            new = json.dumps({**json.loads(tail), **more}).encode()
            changed["tail"] = len(new)
            return bytes(changed.tobytes() + plain[records.HEADER.itemsize :] + new)

        def with_head(**fields: object) -> bytes:
            changed = np.array([head])
            for name, value in fields.items():
                changed[name] = value
            return bytes(changed.tobytes() + body[records.HEADER.itemsize :])

        nonsense = [
            with_tail(kept={"0": 7}),
            with_tail(kept={"0": "first"}),
            with_tail(kept=[0]),
            with_tail(marks={"a": [0, -1]}),
            with_tail(marks={"a": [0]}),
            with_tail(memo=["x", "y", "z"]),
            with_head(rows=0),
            with_head(rows=2**31, width=2**31),
            with_head(step_index=-1),
            with_head(ttl=np.nan),
            with_head(tail=1),
            plain + b"9" * len(tail),
            records.OVER + b"[]",
            records.OVER + b'{"session_id": 1}',
            records.OVER + b"[" * 100_000,
            bytes(100),
        ]
        for record in nonsense:
            sealed = records._sealed("nonsense", record)
            database.execute("UPDATE entries SET data = ? WHERE id = 'nonsense'", (sealed,))
            assert refused(lambda: attach(pair.two, session.name)) == "SNAPSHOT_DAMAGED", record
        database.execute("UPDATE entries SET data = ? WHERE id = 'nonsense'", (data,))
    assert attach(pair.two, session.name).step_index == 2


def test_another_model_under_the_same_name_is_refused(
    serve: Callable[..., RunningServer], model_store: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(model_store / "tiny", changed / "tiny")
    network = load(changed / "tiny" / "1")
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    shutil.rmtree(changed / "tiny" / "1")
    save(changed / "tiny" / "1", network)
    first = serve(shipped=False)
    second = serve(shipped=False, store=changed)
    with grpc.insecure_channel(first.target) as a, grpc.insecure_channel(second.target) as b:
        session = Wire(a).create()
        assert refused(lambda: attach(Wire(b), session.name)) == "SNAPSHOT_MISMATCH"


def test_a_session_moves_to_a_version_with_the_same_schema_on_request_only(pair: Pair) -> None:
    x = inputs(3)
    session = pair.one.create(rewind_depth=1)
    pair.one.outputs([session.handle], [0], x[:2], [2])
    request = pb.MigrateSessionRequest(name=session.name, model="models/letters")
    with pytest.raises(grpc.RpcError) as failure:
        pair.one.sessions.MigrateSession(request)
    error = error_of(failure.value)
    assert error.reason == "SNAPSHOT_MISMATCH"
    assert re.search(
        r"with the same states: models/tiny/versions/1 has h \[2, 8\] and c \[2, 8\], "
        r"models/letters/versions/1 has h \[\d+, \d+\]",
        error.message,
    )
    truth = pair.one.outputs([session.handle], [2], x[2:])
    pair.one.sessions.RewindSession(pb.RewindSessionRequest(name=session.name, steps=1))
    request = pb.MigrateSessionRequest(name=session.name, model="models/tiny/versions/1")
    moved = pair.one.sessions.MigrateSession(request)
    assert (moved.step_index, moved.model_version) == (2, "models/tiny/versions/1")
    assert moved.handle != session.handle
    same(pair.one.outputs([moved.handle], [2], x[2:]), truth)
