"""A generation that is asked for again goes on where it was; spoken without the client library."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from carousel.client import Client
from carousel.errors import StepConflict
from carousel.server.memo import Memo
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_pb2, session_service_pb2
from tests.conftest import RunningServer
from tests.processes import PATIENCE, until
from tests.server.contract import Floats, Wire, error_of

TEXT = "In the beginning "
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0, "seed": 3, "log_probabilities": 0},
    "sampled": {"temperature": 0.9, "top_k": 20, "seed": 11, "log_probabilities": 3},
    "penalised": {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3, "seed": 4},
    "stopped": {"temperature": 0.5, "seed": 18, "stop": ["never this", "and "]},
}
TOKENS = 24


@pytest.fixture
def wire(channel: grpc.Channel) -> Wire:
    return Wire(channel)


def wanted(kind: str, session: session_pb2.Session, **changes: Any) -> dict[str, Any]:
    fields = {"text": TEXT, "max_tokens": TOKENS, "step_index": session.step_index}
    return {"handle": session.handle, **fields, **KINDS[kind], **changes}


def generate(wire: Wire, fields: dict[str, Any]) -> list[pb.GenerateResponse]:
    return list(wire.inference.Generate(pb.GenerateRequest(**fields), timeout=PATIENCE))


def refused(wire: Wire, fields: dict[str, Any]) -> tuple[str, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as failure:
        generate(wire, fields)
    error = error_of(failure.value)
    return error.reason, dict(error.metadata)


def ids(responses: list[pb.GenerateResponse]) -> list[int]:
    return [response.token for response in responses if response.HasField("token")]


def assert_same(responses: list[pb.GenerateResponse], others: list[pb.GenerateResponse]) -> None:
    """All but for the rounding of log-probabilities."""
    parts = [[*map(apart, each)] for each in (responses, others)]
    assert [rest for rest, _ in parts[0]] == [rest for rest, _ in parts[1]]
    for (_, numbers), (_, wanted) in zip(*parts, strict=True):
        np.testing.assert_allclose(numbers, wanted, atol=1e-5)


def apart(response: pb.GenerateResponse) -> tuple[pb.GenerateResponse, list[float]]:
    """A response without its log-probabilities, and these."""
    rest = pb.GenerateResponse.FromString(response.SerializeToString())
    numbers = [entry.log_probability for entry in rest.top]
    if rest.HasField("log_probability"):
        numbers.append(rest.log_probability)
        rest.ClearField("log_probability")
    for entry in rest.top:
        entry.ClearField("log_probability")
    return rest, numbers


def next_output(wire: Wire, session: session_pb2.Session, index: int) -> Floats:
    return wire.outputs([session.handle], [index], np.array([3], np.int64))


def steps_taken(server: RunningServer) -> float:
    with Client(server.target) as client:
        return client.statistics().value("carousel_steps_total", model="king-james")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_request_again_gets_the_same_and_feeds_nothing(
    server: RunningServer, wire: Wire, kind: str
) -> None:
    session = wire.create("models/king-james")
    first = generate(wire, wanted(kind, session))
    before = steps_taken(server)
    again = generate(wire, wanted(kind, session))
    assert again == first
    assert first[-1].finish_reason == 1 + (kind == "stopped")
    assert steps_taken(server) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("durability", ["MEMORY", "ASYNC", "SYNC"])
def test_a_generation_that_was_cut_goes_on_behind_what_was_received(
    server: RunningServer, wire: Wire, kind: str, durability: str
) -> None:
    other = wire.create("models/king-james")
    whole = generate(wire, wanted(kind, other))
    session = wire.create("models/king-james", durability=f"DURABILITY_{durability}")
    before = steps_taken(server)
    got: list[pb.GenerateResponse] = []
    for more in (3, 1, 4):
        call = wire.inference.Generate(
            pb.GenerateRequest(**wanted(kind, session, received=ids(got))), timeout=PATIENCE
        )
        got += [next(call) for _ in range(more)]
        call.cancel()
    got += generate(wire, wanted(kind, session, received=ids(got)))
    assert_same(got, whole)
    assert steps_taken(server) - before == len(TEXT) + len(whole)
    index = len(TEXT) + len(whole)
    np.testing.assert_allclose(
        next_output(wire, session, index), next_output(wire, other, index), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_behind_its_caller_is_fed_what_was_received(wire: Wire, kind: str) -> None:
    other = wire.create("models/king-james")
    whole = generate(wire, wanted(kind, other))
    session = wire.create("models/king-james")
    rest = generate(wire, wanted(kind, session, received=ids(whole)[:9]))
    assert_same(rest, whole[9:])
    index = len(TEXT) + len(whole)
    np.testing.assert_allclose(
        next_output(wire, session, index), next_output(wire, other, index), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_goes_on_too(wire: Wire, kind: str) -> None:
    fields = {"model": "models/king-james", "text": TEXT, "max_tokens": TOKENS, **KINDS[kind]}
    whole = generate(wire, fields)
    assert_same(generate(wire, {**fields, "received": ids(whole)[:7]}), whole[7:])


def test_who_has_all_tokens_gets_the_end_alone(wire: Wire) -> None:
    session = wire.create("models/king-james")
    whole = generate(wire, wanted("sampled", session))
    for behind in (session, wire.create("models/king-james")):
        fields = wanted("sampled", behind, step_index=0, received=ids(whole))
        (end,) = generate(wire, fields)
        assert not end.HasField("token")
        assert (end.text, end.step_index) == ("", len(TEXT) + TOKENS)
        assert (end.finish_reason, end.prompt_tokens, end.generated_tokens, end.seed) == (
            pb.FINISH_REASON_LENGTH,
            len(TEXT),
            TOKENS,
            11,
        )


def test_without_a_seed_the_same_tokens_come_again(wire: Wire) -> None:
    session = wire.create("models/king-james")
    fields = wanted("sampled", session)
    del fields["seed"]
    first = generate(wire, fields)
    assert generate(wire, fields) == first
    assert generate(wire, {**fields, "received": ids(first)[:5]}) == first[5:]


def test_it_goes_on_without_a_prompt(wire: Wire) -> None:
    session = wire.create("models/king-james")
    next_output(wire, session, 0)
    fields = wanted("sampled", session, step_index=1)
    del fields["text"]
    whole = generate(wire, fields)
    assert len(whole) == TOKENS
    assert generate(wire, {**fields, "received": ids(whole)[:6]}) == whole[6:]


def test_more_tokens_may_be_asked_for(wire: Wire) -> None:
    session, other = wire.create("models/king-james"), wire.create("models/king-james")
    whole = generate(wire, wanted("greedy", other, max_tokens=TOKENS + 10))
    first = generate(wire, wanted("greedy", session))
    more = generate(wire, wanted("greedy", session, max_tokens=TOKENS + 10, received=ids(first)))
    assert ids(first) + ids(more) == ids(whole)


def test_another_generation_at_the_same_step_is_a_conflict(wire: Wire) -> None:
    session = wire.create("models/king-james")
    first = generate(wire, wanted("sampled", session))
    expected = {"expected_step": str(len(TEXT) + TOKENS)}
    others: list[dict[str, Any]] = [
        {"text": "At the end "},
        {"seed": 12},
        {"temperature": 0.8},
        {"log_probabilities": 2},
        {"step_index": 1},
        {"max_tokens": TOKENS - 1},  # the session is further
        {"received": [ids(first)[0] + 1]},
    ]
    for changes in others:
        assert refused(wire, wanted("sampled", session, **changes)) == ("STEP_CONFLICT", expected)
    assert generate(wire, wanted("sampled", session)) == first


@pytest.mark.parametrize("how", ["step", "generate", "rewind"])
def test_a_generation_is_over_once_the_session_went_on(wire: Wire, how: str) -> None:
    session = wire.create("models/king-james", rewind_depth=1, durability="DURABILITY_MEMORY")
    generate(wire, wanted("sampled", session))
    index = len(TEXT) + TOKENS
    if how == "step":
        next_output(wire, session, index)
    elif how == "generate":
        generate(wire, wanted("greedy", session, step_index=index))
    else:
        rewind = session_service_pb2.RewindSessionRequest(name=session.name, steps=1)
        session.handle = wire.sessions.RewindSession(rewind).handle
        next_output(wire, session, index - 1)
    assert refused(wire, wanted("sampled", session))[0] == "STEP_CONFLICT"


def test_whoever_comes_last_has_the_generation(server: RunningServer, wire: Wire) -> None:
    """A caller comes again before the server knows that the first connection is dead."""
    many = 400
    other, session = wire.create("models/king-james"), wire.create("models/king-james")
    whole = generate(wire, wanted("sampled", other, max_tokens=many))
    before = steps_taken(server)
    first = wire.inference.Generate(
        pb.GenerateRequest(**wanted("sampled", session, max_tokens=many)), timeout=PATIENCE
    )
    got = [next(first) for _ in range(5)]
    failures: list[str] = []

    def read_on() -> None:
        try:
            for response in first:
                got.append(response)
        except grpc.RpcError as error:
            failures.append(error_of(error).reason)

    reader = threading.Thread(target=read_on)
    reader.start()
    again = generate(wire, wanted("sampled", session, max_tokens=many))
    reader.join(PATIENCE)
    assert_same(again, whole)
    assert len(got) == many or failures == ["CANCELLED"]
    assert ids(got) == ids(whole)[: len(got)]
    assert steps_taken(server) - before == len(TEXT) + many


@pytest.mark.parametrize("kind", KINDS)
def test_another_server_goes_on_from_the_store(
    serve: Callable[..., RunningServer], wire: Wire, kind: str
) -> None:
    whole = generate(wire, wanted(kind, wire.create("models/king-james")))
    ahead, behind = 6, 2  # tokens that the store has: more than the caller got, and fewer
    with_handle = session_service_pb2.AttachSessionRequest
    server = serve()
    with grpc.insecure_channel(server.target) as channel:
        first = Wire(channel)
        sessions = [first.create("models/king-james") for _ in range(2)]
        for session, count in zip(sessions, (ahead, behind), strict=True):
            generate(first, wanted(kind, session, max_tokens=count))
    server.stop()
    with grpc.insecure_channel(serve().target) as channel:
        second = Wire(channel)
        for session in sessions:
            request = with_handle(name=session.name, handle=session.handle)
            session.handle = second.sessions.AttachSession(request).handle
            rest = generate(second, wanted(kind, session, received=ids(whole)[:4]))
            assert_same(rest, whole[4:])


def test_what_a_sync_session_made_leaves_when_it_is_stored(
    serve: Callable[..., RunningServer], tmp_path: Path
) -> None:
    server = serve()
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        whole = generate(wire, wanted("sampled", wire.create("models/king-james")))
        session = wire.create("models/king-james", durability="DURABILITY_SYNC")
        got = generate(wire, wanted("sampled", session, max_tokens=3))
        database = tmp_path / "data" / "sessions.db"
        with closing(sqlite3.connect(database, isolation_level=None)) as store:
            store.execute("ALTER TABLE entries RENAME TO away")
            try:
                # The first attempt commits a token that can't be stored; it is not sent, either
                # by this one or, from memory, by the next.
                for _ in range(2):
                    fields = wanted("sampled", session, received=ids(got))
                    call = wire.inference.Generate(pb.GenerateRequest(**fields), timeout=PATIENCE)
                    with pytest.raises(grpc.RpcError) as failure:
                        next(call)
                    assert error_of(failure.value).reason == "STORE_UNAVAILABLE"
            finally:
                store.execute("ALTER TABLE away RENAME TO entries")
        until(lambda: server.server.hall.engine.behind.trouble is None)
        got += generate(wire, wanted("sampled", session, received=ids(got)))
    assert [one.token for one in got] == [one.token for one in whole]


@pytest.mark.parametrize("length", [1, 3])
def test_another_callers_step_is_never_taken_for_a_token(
    server: RunningServer, wire: Wire, length: int
) -> None:
    """A step that was sent with the handle of a generation came in between."""
    hall = server.server.hall
    session = wire.create("models/king-james")
    wire.outputs([session.handle], [0], np.arange(length), [length])
    version = hall.registry.resolve("models/king-james")
    memo, tokens = Memo(0, b"", 1, b""), np.arange(length) + 7
    with pytest.raises(StepConflict):
        server.run(hall.run_steps(version, session.handle, 0, tokens, memo=memo))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"received": [1] * (TOKENS + 1)}, "INVALID_FIELD"),
        ({"received": [10**6]}, "TOKEN_OUT_OF_RANGE"),
        ({"received": [1], "step_index": None}, "INVALID_FIELD"),
    ],
)
def test_what_cannot_have_been_received_is_refused(
    wire: Wire, changes: dict[str, Any], reason: str
) -> None:
    session = wire.create("models/king-james")
    assert refused(wire, wanted("sampled", session, **changes))[0] == reason
