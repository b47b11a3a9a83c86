"""Prefixes: computed once, kept as a row, copied into every session that begins with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import torch

from carousel import tensors
from carousel.model import Features, Linear, ModelConfig, Network, save
from carousel.server.prefixes import OVERHEAD
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as make
from tests.conftest import RunningServer, running
from tests.processes import PATIENCE, until
from tests.server.contract import Wire, error_of
from tests.server.engines import held_up, version_of
from tests.server.holder import Holder, features
from tests.server.test_departures import count

Connect = Callable[[RunningServer], Holder]
ENTRY = 2 * 2 * 8 * 4 + 2 * 4 + OVERHEAD  # bytes that one prefix of `tiny` takes


class Prefixed:
    """Makes sessions with prefixes on a server of its own, and counts from now on."""

    def __init__(self, server: RunningServer, wire: Wire) -> None:
        self.server, self.wire = server, wire
        self._before = self._counts()
        self._calls = {what: self._called(what) for what in ("started", "cancelled")}

    def __call__(
        self, prefix: npt.NDArray[np.generic], model: str = "models/tiny", **fields: object
    ) -> session_pb2.Session:
        return self.wire.create(model, prefix_inputs=tensors.encode(prefix), **fields)

    def step(self, session: session_pb2.Session, x: npt.NDArray[np.generic]) -> list[float]:
        """The outputs of the next step."""
        row: list[float] = self.wire.outputs([session.handle], [session.step_index], x)[0].tolist()
        return row

    def number(self, name: str, model: str = "tiny") -> float:
        labels = {} if name.endswith("bytes") else {"model": model}
        if name == "steps_total":
            labels["version"] = "1"
        registry = self.server.server.metrics.registry
        return registry.get_sample_value(f"carousel_{name}", labels) or 0.0

    @property
    def counts(self) -> tuple[float, ...]:
        """Hits, misses, steps."""
        return tuple(now - then for now, then in zip(self._counts(), self._before, strict=True))

    def _counts(self) -> tuple[float, ...]:
        names = ("prefix_cache_hits_total", "prefix_cache_misses_total", "steps_total")
        return tuple(map(self.number, names))

    def until_called(self, what: str, times: int) -> None:
        """Until so many creates have started, or have been cancelled."""
        until(lambda: self._called(what) - self._calls[what] == times)

    def _called(self, what: str) -> float:
        if what == "started":
            return count(self.server, "started", grpc_method="CreateSession")
        labels = {"grpc_method": "CreateSession", "grpc_code": "CANCELLED"}
        return count(self.server, "handled", **labels)


@pytest.fixture
def prefixed(serve: Callable[..., RunningServer], connect: Connect) -> Callable[..., Prefixed]:
    def start(**changes: object) -> Prefixed:
        server = serve(**{"shipped": False, **changes})
        return Prefixed(server, connect(server).wire)

    return start


@pytest.fixture(scope="module")
def small(model_store: Path) -> Iterator[Prefixed]:
    """A server of short chunks, for many tests."""
    with (
        running(store=model_store, shipped=False, max_chunk=64) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        yield Prefixed(server, Wire(channel))


@pytest.fixture
def begin(small: Prefixed) -> Prefixed:
    """The same, with counts from here on."""
    return Prefixed(small.server, small.wire)


def test_a_session_goes_on_as_if_it_had_been_fed_the_prefix(begin: Prefixed) -> None:
    prefix, x = features(40, 3), features(1, 3)
    fed = begin.wire.create()
    begin.wire.outputs([fed.handle], [0], prefix, [40])
    fed.step_index = 40
    want = begin.step(fed, x)
    for session in (begin(prefix), begin(prefix)):  # computed, and copied
        assert session.step_index == 40
        assert begin.step(session, x) == want
        again = begin.wire.sessions.ResetSession(make.ResetSessionRequest(name=session.name))
        assert again.step_index == 0


def test_the_same_prefix_again_costs_no_step(begin: Prefixed) -> None:
    prefix, kept = features(40, 3), begin.number("prefix_cache_bytes")
    begin(prefix)
    assert begin.counts == (0, 1, 40)
    for _ in range(3):
        begin(prefix)
    assert begin.counts == (3, 1, 40)
    assert begin.number("prefix_cache_bytes") == kept + ENTRY
    begin(prefix[:39])
    assert begin.counts == (3, 2, 79)


def test_generation_without_a_prompt_goes_on_from_the_prefix(
    server: RunningServer, hold: Holder
) -> None:
    text = "In the beginning God created "
    wire, model = hold.wire, "models/king-james"

    def generate(**source: object) -> str:
        request = pb.GenerateRequest(max_tokens=20, temperature=0.0, **source)  # type: ignore[arg-type]
        return "".join(part.text for part in wire.inference.Generate(request, timeout=PATIENCE))

    want = generate(model=model, text=text)
    begin = Prefixed(server, wire)
    tokenizer = version_of(server, "king-james").config.tokenizer
    assert tokenizer is not None
    tokens = np.array(tokenizer.encode(text), np.int32)
    hits = begin.number("prefix_cache_hits_total", "king-james")
    for session in (
        wire.create(model, prefix_text=text),
        wire.create(model, prefix_text=text),
        begin(tokens, model),  # the same content in another form
    ):
        assert session.step_index == len(text)
        assert generate(handle=session.handle) == want
    assert begin.number("prefix_cache_hits_total", "king-james") == hits + 2


def test_what_sessions_do_later_does_not_reach_the_kept_row(begin: Prefixed) -> None:
    prefix, x = features(8, 3), features(1, 3)
    first = begin(prefix)
    want = begin.step(first, x)
    begin.wire.outputs([first.handle], [9], features(20, 3), [20])
    begin.wire.sessions.DeleteSession(make.DeleteSessionRequest(name=first.name))
    second, third = begin(prefix), begin(prefix)
    assert begin.step(second, x) == want
    begin.wire.outputs([second.handle], [9], features(20, 3), [20])
    assert begin.step(third, x) == want
    assert begin.counts[1] == 1


def test_equal_inputs_for_another_version_are_another_prefix(
    prefixed: Callable[..., Prefixed], tmp_path: Path
) -> None:
    config = ModelConfig(cell="gru", layers=1, hidden_size=4, input=Features(3), head=Linear(2))
    for number in (1, 2):
        torch.manual_seed(number)
        save(tmp_path / "models" / "twins" / str(number), Network(config))
    names = [f"models/twins/versions/{number}" for number in (1, 2)]
    begin = prefixed(store=tmp_path / "models", load=",".join(names))
    prefix, x = features(8, 3), features(1, 3)
    steps = [begin.step(begin(prefix, name), x) for name in names]
    assert begin.number("prefix_cache_misses_total", "twins") == 2
    assert begin.number("prefix_cache_hits_total", "twins") == 0
    for name, want in zip(names, steps, strict=True):
        fed = begin.wire.create(name)
        begin.wire.outputs([fed.handle], [0], prefix, [8])
        fed.step_index = 8
        assert begin.step(fed, x) == want


def test_the_rows_not_used_for_longest_leave_when_the_bytes_are_full(
    prefixed: Callable[..., Prefixed],
) -> None:
    begin = prefixed(prefix_cache_bytes=2 * ENTRY + 1)
    one, two, three = features(3, 4, 3)

    def hit(prefix: npt.NDArray[np.float32]) -> bool:
        hits = begin.counts[0]
        begin(prefix)
        assert begin.number("prefix_cache_bytes") <= 2 * ENTRY
        return begin.counts[0] > hits

    assert [hit(prefix) for prefix in (one, two, one)] == [False, False, True]
    assert not hit(three)  # takes the place of two
    assert [hit(prefix) for prefix in (one, three, two)] == [True, True, False]


def test_without_memory_for_it_nothing_is_kept(prefixed: Callable[..., Prefixed]) -> None:
    begin = prefixed(prefix_cache_bytes=0)
    prefix, x = features(8, 3), features(1, 3)
    assert begin.step(begin(prefix), x) == begin.step(begin(prefix), x)
    assert begin.counts == (0, 2, 18)
    assert begin.number("prefix_cache_bytes") == 0


def test_a_durable_session_keeps_its_prefix_when_the_server_goes(
    prefixed: Callable[..., Prefixed],
) -> None:
    prefix, x = features(40, 3), features(1, 3)
    first = prefixed()
    session = first(prefix, durability=session_pb2.DURABILITY_SYNC)
    want = first.step(first(prefix), x)
    first.server.stop()
    second = prefixed()
    attached = second.wire.sessions.AttachSession(make.AttachSessionRequest(name=session.name))
    assert attached.step_index == 40
    assert second.step(attached, x) == want
    assert second.counts == (0, 0, 1)


NAN = np.array([[0, 0, 0], [0, np.nan, 0]], np.float32)
OVERFLOW = np.full((20, 1), 3e38, np.float32)


@pytest.mark.parametrize(
    ("model", "fields", "reason", "field"),
    [
        ("tiny", {"prefix_inputs": NAN}, "NON_FINITE_INPUT", "prefix_inputs[1][1]"),
        ("tiny", {"prefix_inputs": np.zeros((65, 3))}, "CHUNK_TOO_LONG", "prefix_inputs"),
        ("tiny", {"prefix_inputs": np.zeros((0, 3))}, "CHUNK_TOO_LONG", "prefix_inputs"),
        ("tiny", {"prefix_inputs": np.zeros((2, 4))}, "INPUT_MISMATCH", "prefix_inputs.shape"),
        ("tiny", {"prefix_text": "ab"}, "NO_TOKENIZER", ""),
        ("letters", {"prefix_inputs": np.array([11])}, "TOKEN_OUT_OF_RANGE", "prefix_inputs[0]"),
        ("explosive", {"prefix_inputs": OVERFLOW}, "NON_FINITE_RESULT", ""),
        ("both-ways", {"prefix_inputs": np.zeros((2, 3))}, "MODEL_NOT_STEPWISE", ""),
        (
            "tiny",
            {"prefix_inputs": np.zeros((2, 3)), "initial_state": True},
            "INVALID_FIELD",
            "prefix_inputs",
        ),
    ],
)
def test_a_refused_prefix_leaves_nothing_behind(
    small: Prefixed, model: str, fields: dict[str, object], reason: str, field: str
) -> None:
    sent = {
        name: tensors.encode(value) if isinstance(value, np.ndarray) else value
        for name, value in fields.items()
    }
    if fields.get("initial_state"):
        source = small.wire.create()
        export = make.ExportSessionRequest(name=source.name)
        sent["initial_state"] = small.wire.sessions.ExportSession(export).snapshot.tensors
        small.wire.sessions.DeleteSession(make.DeleteSessionRequest(name=source.name))
    kept, live = small.number("prefix_cache_bytes"), len(small.server.server.hall.engine.table)
    rows = [version.arena.used for version in small.server.server.hall.engine.versions]
    with pytest.raises(grpc.RpcError) as failure:
        small.wire.create(f"models/{model}", session_id="refused", **sent)
    error = error_of(failure.value)
    assert (error.reason, error.field if field else "") == (reason, field)
    assert len(small.server.server.hall.engine.table) == live
    assert [version.arena.used for version in small.server.server.hall.engine.versions] == rows
    assert small.number("prefix_cache_bytes") == kept
    made = small.wire.create(session_id="refused")
    small.wire.sessions.DeleteSession(make.DeleteSessionRequest(name=made.name))


def test_sessions_that_want_the_same_at_once_compute_it_once(begin: Prefixed) -> None:
    prefix, x = features(40, 3), features(1, 3)
    request = make.CreateSessionRequest(model="models/tiny", prefix_inputs=tensors.encode(prefix))
    with held_up(begin.server):
        calls = [begin.wire.sessions.CreateSession.future(request) for _ in range(8)]
        begin.until_called("started", 8)
    sessions = [call.result(PATIENCE) for call in calls]
    assert begin.counts == (7, 1, 40)
    assert len({tuple(begin.step(session, x)) for session in sessions}) == 1


def test_who_leaves_takes_nothing_from_those_who_wait_for_the_same(begin: Prefixed) -> None:
    prefix = tensors.encode(features(40, 3))
    request = make.CreateSessionRequest(model="models/tiny", prefix_inputs=prefix)
    table = begin.server.server.hall.engine.table
    live = len(table)
    with held_up(begin.server):
        calls = [begin.wire.sessions.CreateSession.future(request) for _ in range(3)]
        begin.until_called("started", 3)
        for call in calls[:2]:
            call.cancel()
        begin.until_called("cancelled", 2)
    assert calls[2].result(PATIENCE).step_index == 40
    assert begin.counts == (2, 1, 40)
    until(lambda: len(table) == live + 1)


def test_a_prefix_that_nobody_waits_for_any_more_is_given_up_and_can_be_asked_for_again(
    begin: Prefixed,
) -> None:
    prefix = features(40, 3)
    request = make.CreateSessionRequest(model="models/tiny", prefix_inputs=tensors.encode(prefix))
    with held_up(begin.server):
        call = begin.wire.sessions.CreateSession.future(request)
        begin.until_called("started", 1)
        call.cancel()
        begin.until_called("cancelled", 1)
    begin(features(2, 3))  # a turn later
    assert begin.counts == (0, 2, 2)
    assert begin(prefix).step_index == 40
    assert begin.counts == (0, 3, 42)
