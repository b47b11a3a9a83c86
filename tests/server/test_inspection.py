"""Inspection: the state and the gates of one session, as they are; it changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from carousel.client import Client, HealthRule, Inspection, Session, SessionTier
from carousel.errors import InvalidField, SessionEnded, SessionNotFound, WatchCapacity
from tests.conftest import RunningServer, running, tiny_models
from tests.processes import PATIENCE, until
from tests.server.contract import Floats

TOKENS = np.random.default_rng(1).integers(0, 11, 400)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose store these tests may change."""
    store = tmp_path_factory.mktemp("inspected") / "models"
    tiny_models(store)
    with running(store=store, shipped=False) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def letters(client: Client) -> Iterator[Session]:
    with client.session("letters", rewind_depth=32, durability="memory") as session:
        yield session


@pytest.fixture
def tiny(client: Client) -> Iterator[Session]:
    with client.session("tiny") as session:
        yield session


def features(steps: int) -> Floats:
    return np.random.default_rng(2).standard_normal((steps, 3)).astype(np.float32)


def test_the_state_is_the_one_that_is_exported(tiny: Session) -> None:
    tiny.chunk(features(5) * 40)
    seen, state = tiny.inspect(steps=0), tiny.export().tensors
    assert seen.session == tiny.refresh()
    for layer, found in enumerate(seen.layers):
        assert found.hidden_norm == pytest.approx(np.linalg.norm(state["h"][layer]))
        assert found.cell_norm == pytest.approx(np.linalg.norm(state["c"][layer]))
        flat = np.abs(np.tanh(state["c"][layer].astype(np.float64))) > 0.99
        assert found.saturated_ratio == flat.mean()
        assert (found.memory_horizon_steps, found.gates) == (None, {})
    assert (seen.steps, seen.watched_until) == (0, None)


def assert_traced(client: Client, seen: Inspection, model: str, fed: npt.NDArray[Any]) -> None:
    """The steps that are shown are the last of those that a session took from the beginning."""
    trace = client.trace(model, fed)
    assert seen.first_step + seen.steps == len(fed)
    last = slice(seen.first_step, None)
    for layer, values in zip(seen.layers, trace.layers, strict=True):
        assert set(layer.gates) == set(values)
        for name, gate in layer.gates.items():
            own = values[name][last]
            np.testing.assert_allclose(gate.means, own.mean(axis=1), rtol=1e-4, atol=1e-6)
            if gate.units is not None:
                np.testing.assert_allclose(gate.units, own, rtol=1e-4, atol=1e-6)
            if name in ("forget", "input", "output", "reset", "update"):
                assert gate.saturated is not None
                flat = ((own < 0.05) | (own > 0.95)).mean(axis=1)
                np.testing.assert_allclose(gate.saturated, flat, atol=1e-6)
            else:
                assert gate.saturated is None
        kept = values.get("forget", values.get("update"))
        assert kept is not None
        horizon = -1 / np.log(np.median(kept[-1].astype(np.float64)))
        assert layer.memory_horizon_steps == pytest.approx(horizon, rel=1e-3)


def test_gates_of_single_steps_and_chunks_are_those_of_a_trace(
    client: Client, tiny: Session
) -> None:
    fed = features(60)
    tiny.chunk(fed[:3])
    begin = tiny.inspect(units=256)
    assert (begin.steps, begin.layers[0].gates) == (0, {})
    assert begin.watched_until is not None
    for x in fed[3:6]:
        tiny.step(x)
    assert_traced(client, tiny.inspect(units=256), "tiny", fed[:6])
    tiny.chunk(fed[6:40])
    for x in fed[40:]:
        tiny.step(x)
    seen = tiny.inspect(units=256)
    assert (seen.first_step, seen.steps) == (3, 57)
    assert_traced(client, seen, "tiny", fed)
    assert (seen.tokens, len(seen.surprises), seen.surprise) == ((), 0, None)
    few = tiny.inspect(steps=5)
    assert (few.first_step, few.steps) == (55, 5)
    assert few.layers[0].gates["forget"].units is None
    assert_traced(client, few, "tiny", fed)


def test_surprise_is_the_loss_of_what_came_next(client: Client, letters: Session) -> None:
    letters.chunk(TOKENS[:4])
    letters.inspect()
    letters.step(int(TOKENS[4]))
    letters.chunk(TOKENS[5:30])
    letters.step(int(TOKENS[30]))
    seen = letters.inspect()
    assert seen.tokens == tuple(TOKENS[4:31].tolist())
    assert_traced(client, seen, "letters", TOKENS[:31])
    logits = client.trace("letters", TOKENS[:31]).outputs.astype(np.float64)[3:30]
    likelihood = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    nats = -np.log(likelihood[np.arange(27), TOKENS[4:31]])
    np.testing.assert_allclose(seen.surprises, nats, rtol=1e-5)
    assert seen.surprise == pytest.approx(nats[-1], rel=1e-5)
    assert letters.inspect(steps=1).surprise == pytest.approx(nats[-1], rel=1e-5)


def test_nothing_stood_before_the_first_step_of_all(letters: Session) -> None:
    letters.inspect()
    letters.step(3)
    seen = letters.inspect()
    assert np.isnan(seen.surprises).tolist() == [True]
    assert seen.surprise is None


def test_at_most_256_steps_are_kept_and_the_latest(client: Client, letters: Session) -> None:
    letters.inspect()
    for begin in range(0, 400, 50):
        letters.chunk(TOKENS[begin : begin + 50])
    seen = letters.inspect(steps=256)
    assert (seen.first_step, seen.steps) == (144, 256)
    assert seen.tokens == tuple(TOKENS[144:].tolist())
    assert_traced(client, seen, "letters", TOKENS)
    assert not np.isnan(seen.surprises).any()


def test_units_are_grouped_with_their_neighbours(client: Client, letters: Session) -> None:
    letters.inspect()
    letters.chunk(TOKENS[:20])
    trace = client.trace("letters", TOKENS[:20]).layers[0]["update"]
    for groups in (1, 4, 16, 200):
        found = letters.inspect(units=groups).layers[0].gates["update"].units
        assert found is not None
        wanted = trace.reshape(20, min(groups, 16), -1).mean(axis=2)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_inspecting_changes_no_bit_and_no_moment(client: Client, letters: Session) -> None:
    letters.chunk(TOKENS[:10])
    [twin] = letters.fork(1)
    for begin in range(10, 40, 3):
        before = letters.refresh()
        letters.inspect(steps=256, units=256)
        assert letters.refresh() == before
        chunk, token = TOKENS[begin : begin + 2], int(TOKENS[begin + 2])
        np.testing.assert_array_equal(letters.chunk(chunk), twin.chunk(chunk))
        np.testing.assert_array_equal(letters.step(token), twin.step(token))
    states = [one.export().tensors["h"].tobytes() for one in (letters, twin)]
    assert states[0] == states[1]
    twin.close()


def test_a_session_that_was_set_back_shows_what_came_after(
    client: Client, letters: Session
) -> None:
    letters.inspect()
    for token in TOKENS[:8]:
        letters.step(int(token))
    letters.rewind(steps=3)
    assert letters.inspect().steps == 0
    letters.step(int(TOKENS[20]))
    seen = letters.inspect(units=256)
    assert (seen.first_step, seen.steps, seen.tokens) == (5, 1, (int(TOKENS[20]),))
    path = np.concatenate([TOKENS[:5], TOKENS[20:21]])
    assert_traced(client, seen, "letters", path)
    letters.reset()
    letters.chunk(TOKENS[:4])
    seen = letters.inspect(units=256)
    assert (seen.first_step, seen.steps) == (0, 4)
    assert_traced(client, seen, "letters", TOKENS[:4])


def test_states_that_a_policy_sets_within_a_slice_are_respected(client: Client) -> None:
    client.set_health_policy("letters", [HealthRule("age", 5, "reset")])
    try:
        with client.session("letters") as session:
            session.inspect()
            session.chunk(TOKENS[:12])
            seen = session.inspect(units=256)
    finally:
        client.set_health_policy("letters", [])
    cuts = [TOKENS[0:5], TOKENS[5:10], TOKENS[10:12]]
    wanted = np.concatenate([client.trace("letters", cut).layers[0]["update"] for cut in cuts])
    found = seen.layers[0].gates["update"].units
    assert found is not None
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_what_is_out_of_range_is_refused(client: Client, tiny: Session) -> None:
    for options, message in (
        ({"steps": 257}, "steps must be 0 to 256, got 257"),
        ({"units": 257}, "units must be 0 to 256, got 257"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
    ):
        with pytest.raises(InvalidField, match=message):
            tiny.inspect(**options)
    with pytest.raises(SessionNotFound):
        client.inspect_session("nobody")
    tiny.close()
    with pytest.raises(SessionEnded):
        tiny.inspect()


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1.7e9

    def __call__(self) -> float:
        return self.now


def test_sixteen_sessions_are_watched_each_for_a_minute(
    serve: Callable[..., RunningServer],
) -> None:
    clock = Clock()
    server = serve(shipped=False, clock=clock)
    with Client(server.target, timeout=PATIENCE) as client:
        sessions = [client.session("tiny") for _ in range(17)]
        until = [session.inspect().watched_until for session in sessions[:16]]
        for one in until:
            assert one is not None
            assert one.timestamp() == pytest.approx(clock.now + 60)
        with pytest.raises(WatchCapacity) as refusal:
            sessions[16].inspect()
        assert refusal.value.retry_after == pytest.approx(60)
        assert sessions[16].inspect(steps=0).watched_until is None
        clock.now += 40
        for session in sessions[1:16]:  # these go on for a minute from now
            session.inspect()
        clock.now += 21
        sessions[16].inspect()
        with pytest.raises(WatchCapacity):
            sessions[0].inspect()
        sessions[1].close()
        sessions[0].inspect()


def test_an_end_frees_a_watch_and_the_next_session_in_its_place_is_not_watched(
    client: Client,
) -> None:
    with client.session("letters") as first:
        first.inspect()
        first.chunk(TOKENS[:3])
    with client.session("letters") as second:  # in the same slot
        second.chunk(TOKENS[:3])
        assert second.inspect().steps == 0


@pytest.mark.parametrize("host_sessions", [None, 0])
def test_a_parked_session_stays_parked(
    serve: Callable[..., RunningServer], host_sessions: int | None
) -> None:
    server = serve(shipped=False, device_rows=4, host_sessions=host_sessions)
    with Client(server.target, timeout=PATIENCE) as client:
        parked = client.session("tiny")
        parked.inspect()
        parked.chunk(features(6))
        state = parked.export().tensors
        wanted = SessionTier.HOST if host_sessions is None else SessionTier.STORE

        def is_parked() -> bool:
            for _ in range(5):
                client.session("tiny").step([1.0, 2.0, 3.0])
            return client.get_session(parked.name).tier is wanted

        until(is_parked)
        for steps in (0, 64):
            seen = parked.inspect(steps=steps)
            assert seen.session.tier is wanted
            assert seen.layers[1].cell_norm == pytest.approx(np.linalg.norm(state["c"][1]))
        assert client.get_session(parked.name).tier is wanted
        assert seen.session.step_index == 6


def test_a_session_at_rest_is_seen_and_stays_there(serve: Callable[..., RunningServer]) -> None:
    first = serve(shipped=False)
    with Client(first.target, timeout=PATIENCE) as client:
        session = client.session("tiny", session_id="resting", durability="sync")
        session.chunk(features(6))
        state = session.export().tensors
    first.stop()
    with Client(serve(shipped=False).target, timeout=PATIENCE) as client:
        seen = client.inspect_session("resting")
        assert seen.session.tier is SessionTier.STORE
        assert (seen.session.step_index, seen.steps, seen.watched_until) == (6, 0, None)
        assert seen.layers[0].hidden_norm == pytest.approx(np.linalg.norm(state["h"][0]))
        assert client.get_session("resting").tier is SessionTier.STORE


def test_models_of_every_kind_of_gate_can_be_inspected(
    serve: Callable[..., RunningServer], tmp_path: Path
) -> None:
    import torch

    from carousel.model import Features, ModelConfig, Network, save

    torch.manual_seed(8)
    configs = {
        "relu": ModelConfig(cell="rnn_relu", layers=2, hidden_size=6, input=Features(3)),
        "narrow": ModelConfig(
            cell="lstm", layers=2, hidden_size=8, input=Features(3), projection=4
        ),
    }
    for name, config in configs.items():
        save(tmp_path / "models" / name / "1", Network(config))
    server = serve(store=tmp_path / "models", shipped=False)
    with Client(server.target, timeout=PATIENCE) as client:
        for name in configs:
            session = client.session(name)
            session.inspect()
            session.chunk(features(9))
            seen, trace = session.inspect(units=256), client.trace(name, features(9))
            for layer, values in zip(seen.layers, trace.layers, strict=True):
                for gate, found in layer.gates.items():
                    assert found.units is not None
                    np.testing.assert_allclose(found.units, values[gate], rtol=1e-4, atol=1e-6)
            if name == "relu":
                assert seen.layers[0].memory_horizon_steps is None
                zero = (session.export().tensors["h"][0] == 0).mean()
                assert seen.layers[0].saturated_ratio == pytest.approx(zero)
