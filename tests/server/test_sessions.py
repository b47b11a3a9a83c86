"""The life of sessions: made, copied, moved, ended; spoken without the client library."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import grpc
import numpy as np
import pytest
from google.protobuf import duration_pb2

from carousel import tensors
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb
from carousel.v1.tensor_pb2 import NamedTensor
from tests.conftest import RunningServer
from tests.processes import PATIENCE
from tests.server.contract import Floats, Wire, error_of

RNG = np.random.default_rng(0)


@pytest.fixture
def wire(channel: grpc.Channel) -> Wire:
    return Wire(channel)


def features(*shape: int) -> Floats:
    return RNG.standard_normal(shape).astype(np.float32)


def refused(wire_call: Callable[[], object]) -> str:
    """The reason with which a call is refused."""
    with pytest.raises(grpc.RpcError) as failure:
        wire_call()
    return error_of(failure.value).reason


def test_create_gives_what_was_asked_for(wire: Wire) -> None:
    session = wire.create(session_id="my-id", ttl=duration_pb2.Duration(seconds=90), rewind_depth=3)
    assert session.name == "sessions/my-id"
    assert session.model_version == "models/tiny/versions/1"
    assert session.handle != 0
    assert session.state == session_pb2.SESSION_STATE_ACTIVE
    assert session.ttl.seconds == 90
    assert session.state_bytes == 2 * 2 * 8 * 4
    assert session.expire_time.seconds - session.create_time.seconds in (90, 91)
    got = wire.sessions.GetSession(pb.GetSessionRequest(name=session.name))
    assert got.handle == 0  # only whoever made or attached it may step it
    assert refused(lambda: wire.create(session_id="my-id")) == "SESSION_EXISTS"
    wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    ended = wire.sessions.GetSession(pb.GetSessionRequest(name=session.name))
    assert ended.state == session_pb2.SESSION_STATE_ENDED
    assert ended.end_reason == session_pb2.END_REASON_CLOSED


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": "models/nothing"}, "MODEL_NOT_FOUND"),
        ({"model": "models/tiny/versions/9"}, "VERSION_NOT_FOUND"),
        ({"model": "nonsense//"}, "INVALID_FIELD"),
        ({"model": "models/both-ways"}, "MODEL_NOT_STEPWISE"),
        ({"session_id": "Not Good"}, "INVALID_FIELD"),
        ({"ttl": duration_pb2.Duration(seconds=-1)}, "INVALID_FIELD"),
        ({"ttl": duration_pb2.Duration(seconds=10**9)}, "INVALID_FIELD"),
        ({"lifetime": duration_pb2.Duration()}, "INVALID_FIELD"),
        ({"lifetime": duration_pb2.Duration(seconds=2**40)}, "INVALID_FIELD"),
        ({"rewind_depth": 65}, "INVALID_FIELD"),
        ({"durability": 9}, "INVALID_FIELD"),
        (
            {"initial_state": [NamedTensor(name="h", tensor=tensors.encode(np.zeros(3)))]},
            "INVALID_FIELD",
        ),
    ],
)
def test_a_bad_create_is_refused_and_makes_nothing(
    wire: Wire, fields: dict[str, object], reason: str
) -> None:
    before = wire.sessions.ListSessions(pb.ListSessionsRequest()).total_size
    assert refused(lambda: wire.create(**{"model": "models/tiny", **fields})) == reason  # type: ignore[arg-type]
    assert wire.sessions.ListSessions(pb.ListSessionsRequest()).total_size == before


def test_an_initial_state_is_where_the_session_begins(wire: Wire) -> None:
    first = wire.create()
    wire.outputs([first.handle], [0], features(1, 3))
    snapshot = wire.sessions.ExportSession(pb.ExportSessionRequest(name=first.name)).snapshot
    second = wire.create(initial_state=snapshot.tensors)
    assert second.step_index == 0
    inputs = features(1, 3)
    same = wire.outputs([second.handle], [0], inputs)
    np.testing.assert_allclose(same, wire.outputs([first.handle], [1], inputs), rtol=1e-5)


def test_an_initial_state_that_names_a_tensor_twice_is_refused(wire: Wire) -> None:
    first = wire.create()
    snapshot = wire.sessions.ExportSession(pb.ExportSessionRequest(name=first.name)).snapshot
    twice = [*snapshot.tensors, snapshot.tensors[0]]
    assert refused(lambda: wire.create(initial_state=twice)) == "INVALID_FIELD"


def test_fork_copies_state_index_and_reply(wire: Wire) -> None:
    source = wire.create()
    wire.outputs([source.handle], [0], features(1, 3))
    last = wire.outputs([source.handle], [1], features(1, 3))
    copies = wire.sessions.ForkSession(
        pb.ForkSessionRequest(name=source.name, count=3, session_ids=["twin-1"])
    ).sessions
    assert [copy.step_index for copy in copies] == [2, 2, 2]
    assert copies[0].name == "sessions/twin-1"
    assert np.array_equal(wire.outputs([copies[1].handle], [1], features(1, 3)), last)
    inputs = features(1, 3)
    handles = [source.handle, *(copy.handle for copy in copies)]
    outputs = wire.outputs(handles, [2] * 4, np.repeat(inputs, 4, axis=0))
    np.testing.assert_allclose(outputs, np.repeat(outputs[:1], 4, axis=0), rtol=1e-5, atol=1e-6)
    wire.outputs([copies[0].handle], [3], features(1, 3))  # each goes on alone
    assert wire.sessions.GetSession(pb.GetSessionRequest(name=source.name)).step_index == 3
    again = pb.ForkSessionRequest(name=source.name, session_ids=["new", "twin-1"])
    assert refused(lambda: wire.sessions.ForkSession(again)) == "SESSION_EXISTS"
    assert (
        refused(lambda: wire.sessions.GetSession(pb.GetSessionRequest(name="sessions/new")))
        == "SESSION_NOT_FOUND"
    )


def test_rewind_goes_back_to_every_kept_step_and_no_further(wire: Wire) -> None:
    session = wire.create(rewind_depth=4)
    inputs = features(9, 3)
    outputs = wire.outputs([session.handle], [0], inputs[:8], [8])
    handle = session.handle
    for target in (7, 6, 5, 4):
        back = wire.sessions.RewindSession(
            pb.RewindSessionRequest(name=session.name, step_index=target)
        )
        assert back.step_index == target
        assert back.handle != handle
        again = wire.outputs([back.handle], [target], inputs[target : target + 1])
        np.testing.assert_allclose(again[0], outputs[target], rtol=1e-5, atol=1e-6)
        late = wire.step([handle], [target + 1], inputs[:1])
        assert late.errors[0].reason == "SESSION_FENCED"
        handle = back.handle
    with pytest.raises(grpc.RpcError) as failure:
        wire.sessions.RewindSession(pb.RewindSessionRequest(name=session.name, step_index=0))
    error = error_of(failure.value)
    assert error.reason == "REWIND_UNAVAILABLE"
    assert error.metadata["kept_steps"] == "4,5"
    assert "is at step 5 and can go back by at most 1, to step 4; got step_index 0" in str(error)


def test_rewind_refuses_what_was_never_kept(wire: Wire) -> None:
    session = wire.create()
    wire.outputs([session.handle], [0], features(1, 3))
    for request in (
        pb.RewindSessionRequest(name=session.name, steps=1),
        pb.RewindSessionRequest(name=session.name, steps=2),
        pb.RewindSessionRequest(name=session.name, step_index=5),
        pb.RewindSessionRequest(name=session.name, bookmark="never-made"),
    ):
        assert refused(partial(wire.sessions.RewindSession, request)) == "REWIND_UNAVAILABLE"
    beyond = pb.RewindSessionRequest(name=session.name, steps=2)
    with pytest.raises(grpc.RpcError) as failure:
        wire.sessions.RewindSession(beyond)
    assert "is at step 1 and keeps no earlier state, with a rewind_depth of 0; got steps 2" in str(
        error_of(failure.value)
    )
    wire.outputs([session.handle], [1], features(1, 3))


def test_reset_begins_again(wire: Wire) -> None:
    session = wire.create()
    inputs = features(1, 3)
    first = wire.outputs([session.handle], [0], inputs)
    wire.outputs([session.handle], [1], features(1, 3))
    fresh = wire.sessions.ResetSession(pb.ResetSessionRequest(name=session.name))
    assert fresh.step_index == 0
    np.testing.assert_allclose(wire.outputs([fresh.handle], [0], inputs), first, rtol=1e-5)
    stale = pb.ResetSessionRequest(name=session.name, handle=session.handle)
    assert refused(lambda: wire.sessions.ResetSession(stale)) == "SESSION_FENCED"


def test_a_move_made_again_with_the_former_handle_says_the_same(wire: Wire) -> None:
    """Its answer may have been lost; once the session is used, the former handle is fenced."""
    session = wire.create(rewind_depth=4)
    inputs = features(4, 3)
    outputs = wire.outputs([session.handle], [0], inputs, [4])
    back = pb.RewindSessionRequest(name=session.name, handle=session.handle, step_index=2)
    one, two = wire.sessions.RewindSession(back), wire.sessions.RewindSession(back)
    assert one.step_index == two.step_index == 2
    assert one.handle == two.handle != session.handle
    relative = pb.RewindSessionRequest(name=session.name, handle=session.handle, steps=1)
    assert refused(lambda: wire.sessions.RewindSession(relative)) == "SESSION_FENCED"
    again = wire.outputs([two.handle], [2], inputs[2:], [2])
    np.testing.assert_allclose(again, outputs[2:], rtol=1e-5, atol=1e-6)
    assert refused(lambda: wire.sessions.RewindSession(back)) == "SESSION_FENCED"
    reset = pb.ResetSessionRequest(name=session.name, handle=two.handle)
    fresh = wire.sessions.ResetSession(reset)
    assert wire.sessions.ResetSession(reset).handle == fresh.handle
    first = wire.outputs([fresh.handle], [0], inputs[:1])
    np.testing.assert_allclose(first, outputs[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_export_then_import_goes_on_as_if_nothing_had_happened(wire: Wire, steps: int) -> None:
    session = wire.create()
    chunk = features(5, 3)
    last = wire.outputs([session.handle], [0], chunk[:steps], [steps]) if steps else None
    snapshot = wire.sessions.ExportSession(pb.ExportSessionRequest(name=session.name)).snapshot
    assert snapshot.step_index == steps
    copy = wire.sessions.ImportSession(pb.ImportSessionRequest(snapshot=snapshot))
    assert copy.step_index == steps
    if last is not None:  # the reply memory moved along
        again = wire.outputs([copy.handle], [0], chunk[:steps], [steps])
        assert np.array_equal(again, last)
    inputs = features(1, 3)
    want = wire.outputs([session.handle], [steps], inputs)
    np.testing.assert_allclose(wire.outputs([copy.handle], [steps], inputs), want, rtol=1e-5)


def test_a_flipped_bit_or_a_foreign_snapshot_is_refused(wire: Wire) -> None:
    session = wire.create()
    wire.outputs([session.handle], [0], features(1, 3))
    good = wire.sessions.ExportSession(pb.ExportSessionRequest(name=session.name)).snapshot
    for damage in ("state", "index", "reply", "digest"):
        bad = session_pb2.Snapshot()
        bad.CopyFrom(good)
        if damage == "state":
            data = bytearray(bad.tensors[1].tensor.data)
            data[17] ^= 4
            bad.tensors[1].tensor.data = bytes(data)
        elif damage == "index":
            bad.step_index += 1
        elif damage == "reply":
            bad.reply.data = bytes(len(bad.reply.data))
        else:
            bad.model_digest = bytes(32)
        request = pb.ImportSessionRequest(snapshot=bad)
        assert refused(partial(wire.sessions.ImportSession, request)) == "SNAPSHOT_DAMAGED"
    foreign = pb.ImportSessionRequest(snapshot=good, model="models/explosive")
    assert refused(lambda: wire.sessions.ImportSession(foreign)) == "SNAPSHOT_MISMATCH"


def test_sessions_end_when_idle_or_too_old_and_say_so(wire: Wire) -> None:
    idle = wire.create(ttl=duration_pb2.Duration(nanos=50_000_000))
    old = wire.create(lifetime=duration_pb2.Duration(nanos=50_000_000))
    wanted = {
        idle.name: session_pb2.END_REASON_IDLE,
        old.name: session_pb2.END_REASON_LIFETIME,
    }
    end = time.monotonic() + PATIENCE
    reasons: dict[str, int] = {}
    while reasons != wanted and time.monotonic() < end:
        reasons = {
            name: wire.sessions.GetSession(pb.GetSessionRequest(name=name)).end_reason
            for name in wanted
        }
    assert reasons == wanted
    [error] = wire.step([idle.handle], [0], features(1, 3)).errors
    assert (error.reason, error.metadata["end_reason"]) == ("SESSION_ENDED", "IDLE")


def test_touch_moves_the_end(wire: Wire) -> None:
    session = wire.create(ttl=duration_pb2.Duration(seconds=5))
    touched = wire.sessions.TouchSession(
        pb.TouchSessionRequest(name=session.name, ttl=duration_pb2.Duration(seconds=500))
    )
    assert touched.expire_time.seconds - session.expire_time.seconds >= 490


def test_pages_list_every_session_once(serve: Callable[..., RunningServer]) -> None:
    server = serve()
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        made = {wire.create().name for _ in range(23)}
        wire.create("models/letters")
        listed: list[str] = []
        token = ""
        while True:
            page = wire.sessions.ListSessions(
                pb.ListSessionsRequest(page_size=5, page_token=token, model="models/tiny")
            )
            listed += [session.name for session in page.sessions]
            assert page.total_size == 23
            token = page.next_page_token
            if not token:
                break
        assert listed == sorted(made)


def test_no_more_sessions_than_the_limit_and_a_place_is_free_again(
    serve: Callable[..., RunningServer],
) -> None:
    server = serve(max_sessions=70)
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        names = [wire.create().name for _ in range(70)]
        with pytest.raises(grpc.RpcError) as failure:
            wire.create()
        error = error_of(failure.value)
        assert error.reason == "SESSION_CAPACITY"
        assert error.retry_after is not None
        fork = pb.ForkSessionRequest(name=names[0], count=2)
        assert refused(lambda: wire.sessions.ForkSession(fork)) == "SESSION_CAPACITY"
        wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=names[3]))
        wire.create()


def test_a_fork_that_does_not_fit_in_makes_nothing(serve: Callable[..., RunningServer]) -> None:
    server = serve(max_sessions=100)
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        source = wire.create(rewind_depth=20)
        fork = pb.ForkSessionRequest(name=source.name, count=5)
        assert refused(lambda: wire.sessions.ForkSession(fork)) == "SESSION_CAPACITY"
        assert wire.sessions.ListSessions(pb.ListSessionsRequest()).total_size == 1


def test_a_snapshot_of_impossible_steps_is_refused(wire: Wire) -> None:
    session = wire.create()
    snapshot = wire.sessions.ExportSession(pb.ExportSessionRequest(name=session.name)).snapshot
    for step_index, reply_index in ((2**63 - 1, 0), (2**64 - 1, 0), (0, 2**64 - 1)):
        snapshot.step_index, snapshot.reply_index = step_index, reply_index
        snapshot.checksum = tensors.snapshot_checksum(snapshot)
        request = pb.ImportSessionRequest(snapshot=snapshot)
        assert refused(partial(wire.sessions.ImportSession, request)) == "SNAPSHOT_DAMAGED"
