"""State health: rules act on states after every step, the same way in any cut, and are told."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from carousel import tensors
from carousel.client import Client, HealthRule
from carousel.errors import (
    CarouselError,
    InvalidField,
    ModelNotFound,
    ModelNotLoaded,
    SessionQuarantined,
    WeightsInvalid,
)
from carousel.model import Features, Linear, ModelConfig, Network, load, save
from carousel.model.config import Cell
from carousel.server.health_log import LINES
from carousel.server.health_policy import FILE
from carousel.server.health_policy import HealthRule as Rule
from carousel.server.state_health import StateHealth
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_pb2
from tests.conftest import RunningServer, running
from tests.processes import PATIENCE
from tests.server.contract import Floats, Wire
from tests.server.holder import Holder, outputs

SIZE, STEPS = 4, 24
MODELS: dict[str, Cell] = {"lstm": "lstm", "gru": "gru", "tanh": "rnn_tanh", "relu": "rnn_relu"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of every cell that is easily saturated, and begins from a state that it learned."""
    store = tmp_path_factory.mktemp("models")
    torch.manual_seed(3)
    for model, cell in MODELS.items():
        config = ModelConfig(
            cell=cell,
            layers=2,
            hidden_size=6,
            input=Features(SIZE),
            head=Linear(2),
            learned_initial_state=True,
        )
        network = Network(config)
        if cell == "lstm":
            network.set_forget_bias(4.0)  # nothing is forgotten, so that cells fill up
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if "weight_ih" in name:
                    parameter.mul_(9)
                elif name.startswith("initial"):
                    parameter.normal_(0, 0.3)
        save(store / model / "1", network)
    return store


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[RunningServer]:
    with running(store=store, shipped=False, chunk_slice=7) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    """Of models without a policy, which they lose again after the test."""
    with Client(server.target, timeout=PATIENCE) as client:
        yield client
        for model in MODELS:
            client.set_health_policy(model, [])


@pytest.fixture
def wire(server: RunningServer) -> Iterator[Wire]:
    with grpc.insecure_channel(server.target) as channel:
        yield Wire(channel)


def features(*shape: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Fired:
    rule: HealthRule
    step: int
    value: float


def reference(
    network: Network, rules: Sequence[HealthRule], inputs: Floats
) -> tuple[Floats, list[Fired]]:
    """One sequence by the reference cells and the rules as the contract words them: [T, O]."""
    initial = network.initial_rows(1).detach().double()
    network = network.double()
    row, found, fired = initial, [], []
    for step, x in enumerate(inputs):
        with torch.no_grad():
            y, row = network(torch.from_numpy(x).double()[None, None], row)
        found.append(y[0, 0].numpy())
        for rule in rules:
            value = measure(network, rule, row, step)
            above = value % rule.threshold == 0 if rule.metric == "age" else value > rule.threshold
            if above:
                fired.append(Fired(rule, step, value))
                row = act(network, rule, row, initial)
    return np.array(found, np.float32), fired


def vectors(network: Network, row: torch.Tensor) -> list[torch.Tensor]:
    return [vector for part in network.schema.split(row).values() for vector in part[0]]


def measure(network: Network, rule: HealthRule, row: torch.Tensor, step: int) -> float:
    if rule.metric == "age":
        return step + 1
    if rule.metric == "state_norm":
        return max(float((vector**2).sum() ** 0.5) for vector in vectors(network, row))
    parts, cell = network.schema.split(row), network.config.cell
    if cell == "lstm":
        flat = parts["c"].tanh().abs() > 0.99
    else:
        flat = parts["h"] == 0 if cell == "rnn_relu" else parts["h"].abs() > 0.99
    return float(flat.double().mean())


def act(
    network: Network, rule: HealthRule, row: torch.Tensor, initial: torch.Tensor
) -> torch.Tensor:
    if rule.action == "clip":
        bound = rule.threshold
        scaled = [v * (bound / max(bound, float(v.norm()))) for v in vectors(network, row)]
        return torch.cat(scaled)[None]
    return {"alert": row, "soft_reset": (row + initial) / 2, "reset": initial}[rule.action]


POLICIES = (
    [HealthRule("state_norm", 0.8, "clip")],
    [HealthRule("age", 5, "soft_reset"), HealthRule("age", 12, "reset")],
    [HealthRule("saturation", 0.05, "soft_reset"), HealthRule("state_norm", 1.0, "clip")],
    [HealthRule("saturation", 0.05, "reset"), HealthRule("state_norm", 0.5, "alert")],
)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rules", POLICIES, ids=lambda rules: rules[0].metric)
def test_outputs_and_notices_are_those_of_the_rules_applied_after_every_step(
    client: Client, wire: Wire, server: RunningServer, model: str, rules: list[HealthRule]
) -> None:
    inputs = features(STEPS, SIZE) * 3
    network = load(server.settings.store / model / "1").eval()
    wanted, fired = reference(network, rules, inputs)
    without, _ = reference(network, [], inputs)
    assert np.abs(wanted - without).max() > 1e-2  # the rules do something
    client.set_health_policy(model, rules)
    for cuts in ([STEPS], [1] * STEPS, [3, 9, 1, 11]):
        handle, begin = wire.create(f"models/{model}").handle, 0
        for cut in cuts:
            end = begin + cut
            response = wire.step([handle], [begin], inputs[begin:end], [cut])
            got = np.frombuffer(response.outputs.data, np.float32).reshape(cut, -1)
            np.testing.assert_allclose(got, wanted[begin:end], rtol=1e-4, atol=1e-5)
            check_notices(response, [one for one in fired if begin <= one.step < end])
            begin = end


KINDS = {
    "alert": pb.NOTICE_KIND_STATE_ALERT,
    "clip": pb.NOTICE_KIND_STATE_CLIPPED,
    "soft_reset": pb.NOTICE_KIND_STATE_SOFT_RESET,
    "reset": pb.NOTICE_KIND_STATE_RESET,
}


def check_notices(response: pb.StepResponse, fired: Sequence[Fired]) -> None:
    """One notice for each rule that fired, whenever it first did."""
    by_rule: dict[HealthRule, list[Fired]] = {}
    for one in fired:
        by_rule.setdefault(one.rule, []).append(one)
    got = [(n.item, n.kind, n.step_index, n.count) for n in response.notices]
    assert got == [(0, KINDS[r.action], f[0].step, len(f)) for r, f in by_rule.items()]
    values = [notice.value for notice in response.notices]
    largest = [max(one.value for one in some) for some in by_rule.values()]
    np.testing.assert_allclose(values, largest, rtol=1e-4)


def test_only_the_sessions_a_rule_fires_for_are_touched_and_named(
    client: Client, wire: Wire
) -> None:
    inputs = features(8, SIZE, seed=2)
    handles = [wire.create("models/gru").handle for _ in range(8)]
    clean = wire.outputs(handles, [0] * 8, inputs), wire.outputs(handles, [1] * 8, inputs)
    client.set_health_policy("gru", [HealthRule("state_norm", 1.0, "reset")])
    handles = [wire.create("models/gru").handle for _ in range(8)]
    first = wire.step(handles, [0] * 8, inputs)
    touched = sorted(notice.item for notice in first.notices)
    assert 0 < len(touched) < 8
    second = wire.outputs(handles, [1] * 8, inputs)
    assert np.array_equal(np.frombuffer(first.outputs.data, np.float32).reshape(8, 2), clean[0])
    same = [item for item in range(8) if np.array_equal(second[item], clean[1][item])]
    assert same == [item for item in range(8) if item not in touched]


def test_a_retry_is_told_what_the_first_answer_told(client: Client, wire: Wire) -> None:
    client.set_health_policy("lstm", [HealthRule("age", 2, "alert")])
    handle = wire.create("models/lstm").handle
    inputs = features(20, SIZE)
    wire.outputs([handle], [0], inputs[:1])
    told = wire.step([handle], [1], inputs[1:2])
    assert len(told.notices) == 1
    assert wire.step([handle], [1], inputs[1:2]).notices == told.notices
    chunk = wire.step([handle], [2], inputs[2:], [18])
    assert [(n.step_index, n.count) for n in chunk.notices] == [(3, 9)]
    assert wire.step([handle], [2], inputs[2:], [18]).notices == chunk.notices
    assert not wire.step([handle], [20], inputs[:1]).notices
    assert not wire.step([handle], [20], inputs[:1]).notices


def test_states_that_callers_hold_are_under_the_same_rules(
    client: Client, wire: Wire, server: RunningServer
) -> None:
    rules = [HealthRule("state_norm", 0.8, "clip"), HealthRule("age", 5, "soft_reset")]
    inputs = features(STEPS, SIZE) * 3
    network = load(server.settings.store / "lstm" / "1").eval()
    wanted, fired = reference(network, rules, inputs)
    client.set_health_policy("lstm", rules)
    holder = Holder(wire, "models/lstm")
    state, begin = b"", 0
    for cut in (1, 1, 10, 1, STEPS - 13):
        end = begin + cut
        # Beside it the model's initial state, which the rules reach at other steps.
        pair = np.concatenate([inputs[:cut], inputs[begin:end]])
        response = holder([b"", state], pair, [cut, cut])
        got = outputs(response)[cut:]
        np.testing.assert_allclose(got, wanted[begin:end], rtol=1e-4, atol=1e-5)
        mine = pb.StepResponse(notices=[n for n in response.notices if n.item])
        for notice in mine.notices:
            notice.item = 0
        check_notices(mine, [one for one in fired if begin <= one.step < end])
        state, begin = response.states[1], end


def test_a_session_begins_where_rules_left_its_prefix(client: Client, wire: Wire) -> None:
    inputs = features(9, SIZE)
    for rules in ([], [HealthRule("age", 4, "reset")], [HealthRule("age", 8, "reset")]):
        client.set_health_policy("gru", rules)
        made = wire.create("models/gru", prefix_inputs=tensors.encode(inputs[:8]))
        got = wire.outputs([made.handle], [8], inputs[8:])
        whole = wire.outputs([wire.create("models/gru").handle], [0], inputs, [9])
        np.testing.assert_allclose(got[0], whole[-1], rtol=1e-5, atol=1e-6)


def test_answers_that_wait_for_the_store_are_told_too(client: Client, wire: Wire) -> None:
    client.set_health_policy("lstm", [HealthRule("age", 2, "alert")])
    kinds = (session_pb2.DURABILITY_SYNC, session_pb2.DURABILITY_MEMORY)
    handles = [wire.create("models/lstm", durability=kinds[n % 2]).handle for n in range(5)]
    inputs = features(5, SIZE)
    assert not wire.step(handles[1:3], [0] * 2, inputs[:2]).notices
    response = wire.step(handles, [0, 1, 1, 0, 0], inputs)
    assert [(n.item, n.step_index) for n in response.notices] == [(1, 1), (2, 1)]


def test_a_state_that_is_moved_goes_on_under_the_rules_as_it_would_have(client: Client) -> None:
    client.set_health_policy(
        "lstm", [HealthRule("state_norm", 0.8, "clip"), HealthRule("age", 5, "soft_reset")]
    )
    inputs = features(STEPS, SIZE)
    with client.session("lstm") as session:
        session.chunk(inputs[:7])
        with client.import_session(session.export()) as moved:
            for x in inputs[7:]:
                assert np.array_equal(session.step(x), moved.step(x))


def test_a_state_that_is_not_finite_is_quarantined_not_healed(
    client: Client, server: RunningServer
) -> None:
    client.set_health_policy(
        "relu", [HealthRule("state_norm", 1.0, "clip"), HealthRule("age", 1, "reset")]
    )
    with client.session("relu") as session:
        # The first layer overflows at the first step; the reset after it would hide that.
        huge = np.full((3, SIZE), 3e38, np.float32)
        with pytest.raises(SessionQuarantined):
            session.chunk(huge * np.array([[1], [0], [0]], np.float32))


def test_a_chunk_that_fails_half_way_tells_what_rules_did_before(
    client: Client, wire: Wire
) -> None:
    client.set_health_policy("relu", [HealthRule("age", 3, "alert")])
    inputs = features(20, SIZE)
    inputs[15] = 3e38  # overflows in the third slice of 7
    response = wire.step([wire.create("models/relu").handle], [0], inputs, [20])
    assert response.errors[0].metadata["committed_steps"] == "14"
    assert [(n.item, n.step_index, n.count) for n in response.notices] == [(0, 2, 4)]


def test_actions_are_counted_and_logged_with_session_and_step(
    client: Client, server: RunningServer
) -> None:
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record)  # type: ignore[method-assign]
    logger = logging.getLogger("carousel.health")
    logger.addHandler(handler)
    [version] = [v for v in server.server.hall.engine.versions if v.model == "tanh"]
    version.health_log._begin = -1e9  # a new window
    try:
        client.set_health_policy("tanh", [HealthRule("age", 3, "reset")])
        before = client.statistics()
        with client.session("tanh", session_id="watched") as session:
            session.chunk(features(30 * 3, SIZE))
        labels = {"model": "tanh", "action": "reset"}
        name = "carousel_state_health_actions_total"
        assert client.statistics().value(name, **labels) - before.value(name, **labels) == 30
        assert [line.getMessage() for line in lines[:2]] == [
            "state of sessions/watched: reset after step 2, age was 3",
            "state of sessions/watched: reset after step 5, age was 6",
        ]
        assert len(lines) == LINES
        version.health_log._begin = -1e9
        with client.session("tanh") as session:
            session.chunk(features(3, SIZE))
        assert vars(lines[LINES])["left_out"] == 30 - LINES
    finally:
        logger.removeHandler(handler)


def test_a_policy_survives_the_server_and_can_be_taken_back(
    serve: Callable[..., RunningServer], tmp_path: Path, store: Path
) -> None:
    save(tmp_path / "lstm" / "1", load(store / "lstm" / "1"))
    rules = (HealthRule("state_norm", 0.1, "reset"), HealthRule("age", 7, "alert"))
    settings = {"store": tmp_path, "shipped": False}
    first = serve(**settings)
    inputs = features(5, SIZE)
    with Client(first.target) as client:
        assert client.get_health_policy("lstm") == ()
        with client.session("lstm") as live:
            live.step(inputs[0])
            assert client.set_health_policy("lstm", rules) == rules
            live.step(inputs[1])  # live sessions are under it from now on
            once = live.step(inputs[2])
    first.stop()
    with Client(serve(**settings).target) as client:
        assert client.get_health_policy("lstm") == rules
        with client.session("lstm") as session:
            session.step(inputs[4])
            # After a reset nothing of the steps before is left.
            assert np.array_equal(session.step(inputs[2]), once)
            client.set_health_policy("lstm", ())
            session.step(inputs[0])
            assert not np.array_equal(session.step(inputs[2]), once)
        assert json.loads((tmp_path / "lstm" / FILE).read_text()) == {"rules": []}
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_policy_stops_its_model_from_being_served(
    serve: Callable[..., RunningServer], tmp_path: Path, store: Path
) -> None:
    for name in ("good", "bad"):
        save(tmp_path / name / "1", load(store / "gru" / "1"))
    (tmp_path / "bad" / FILE).write_text('{"rules": [{"metric": "mood"}]}')
    with Client(serve(store=tmp_path, shipped=False).target) as client:
        client.session("good").close()
        with pytest.raises(ModelNotLoaded, match=FILE):
            client.session("bad")
        with pytest.raises(WeightsInvalid):
            client.get_health_policy("bad")
        client.set_health_policy("bad", [])
        client.load_model("bad")
        client.session("bad").close()


@pytest.mark.parametrize(
    ("rule", "field", "part"),
    [
        (HealthRule("state_norm", 0.0, "clip"), "threshold", "above 0 and finite, got 0"),
        (HealthRule("state_norm", float("nan"), "alert"), "threshold", "got nan"),
        (HealthRule("saturation", 1.5, "reset"), "threshold", "0 to 1, got 1.5"),
        (HealthRule("age", 2.5, "reset"), "threshold", "a whole number from 1"),
        (HealthRule("age", float("inf"), "reset"), "threshold", "got inf"),
        (HealthRule("age", 5, "clip"), "action", "with state_norm only, got age"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_its_place(
    client: Client, rule: HealthRule, field: str, part: str
) -> None:
    kept = client.set_health_policy("lstm", [HealthRule("age", 9, "alert")])
    with pytest.raises(InvalidField) as refused:
        client.set_health_policy("lstm", [HealthRule("age", 1, "alert"), rule])
    assert refused.value.field == f"policy.rules[1].{field}"
    assert part in refused.value.message
    assert client.get_health_policy("lstm") == kept


def test_there_are_limits_to_a_policy(client: Client) -> None:
    def too_many() -> object:
        return client.set_health_policy("lstm", [HealthRule("age", 9, "alert")] * 17)

    def nowhere() -> object:
        return client.set_health_policy("nowhere", [])

    calls: list[tuple[Callable[[], object], type[CarouselError]]] = [
        (too_many, InvalidField),
        (nowhere, ModelNotFound),
        (lambda: client.get_health_policy("nowhere"), ModelNotFound),
    ]
    for call, error in calls:
        with pytest.raises(error):
            call()


def test_a_row_under_rules_is_the_same_to_the_last_bit_beside_any_others(store: Path) -> None:
    for model, count in itertools.product(MODELS, (1, 2, 17, 200)):
        network = load(store / model / "1")
        policy = (Rule("saturation", 0.3, "soft_reset"), Rule("state_norm", 1.1, "clip"))
        health = StateHealth(policy, network.config, initial_row(network))
        rows = torch.from_numpy(features(count, network.schema.width)) * 2
        before, ages = rows.clone(), np.arange(count)
        together, touches = health.apply(rows, ages, ages)
        assert torch.equal(rows, before)  # given rows are not written to
        assert touches
        for place in range(count):
            one = slice(place, place + 1)
            alone, _ = health.apply(rows[one], ages[one], ages[one])
            assert torch.equal(alone[0], together[place])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("model", MODELS)
def test_a_row_that_is_not_finite_is_left_as_it_is(store: Path, model: str, number: float) -> None:
    network = load(store / model / "1")
    policy = (Rule("state_norm", 1e-6, "clip"), Rule("age", 1, "reset"))
    health = StateHealth(policy, network.config, initial_row(network))
    rows = torch.from_numpy(features(3, network.schema.width))
    rows[1, 2] = number
    after, touches = health.apply(rows, np.arange(1, 4), np.arange(3))
    assert {touch.slot for touch in touches} == {0, 2}
    assert np.array_equal(after[1].numpy(), rows[1].numpy(), equal_nan=True)
    assert np.array_equal(after[0].numpy(), initial_row(network))


def initial_row(network: Network) -> Floats:
    row: Floats = network.initial_rows(1)[0].detach().numpy()
    return row
