"""Who has little waits for no queue of others: of no other tenant, model or connection."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from carousel import tensors
from carousel.server.company import LONGEST_REST, REST, Company
from carousel.server.engine import Engine
from carousel.server.loaded import LoadedVersion
from carousel.server.parties import FEW, GROWS
from carousel.server.scheduler import SHORT_FOR
from carousel.server.work import Work
from carousel.v1 import inference_service_pb2 as pb
from tests.conftest import RunningServer
from tests.processes import PATIENCE, until
from tests.server.contract import Wire
from tests.server.engines import held_up, version_of

MANY = 3 * FEW


@pytest.fixture
def one_server(serve: Callable[..., RunningServer]) -> RunningServer:
    return serve()


@pytest.fixture
def held(one_server: RunningServer) -> Engine:
    return one_server.server.hall.engine


@pytest.fixture
def wire(one_server: RunningServer) -> Iterator[Wire]:
    with grpc.insecure_channel(one_server.target) as channel:
        yield Wire(channel)


class Rides:
    """The works of each turn, and the thread that ran it."""

    def __init__(self, held: Engine, patch: pytest.MonkeyPatch) -> None:
        self.works = list[list[Work]]()
        self.threads = list[int]()
        self._ride = held.turns.ride
        patch.setattr(held.turns, "ride", self._seen)

    def _seen(self, version: LoadedVersion, plan: Any, **options: Any) -> None:
        self.works.append(plan.works)
        self.threads.append(threading.get_ident())
        self._ride(version, plan, **options)


class Caller:
    """Puts works into the engine's inbox, and waits until all are answered."""

    def __init__(self, held: Engine) -> None:
        self._held = held
        self._done = list[threading.Event]()

    def come(self, version: LoadedVersion, handles: list[int], tenant: str, now: float = 0) -> Work:
        done = threading.Event()
        self._done.append(done)
        inputs = np.ones((len(handles), *version.input_shape), version.input_dtype)
        work = Work(
            handles,
            [0] * len(handles),
            inputs,
            lambda answer: done.set(),
            lane=version.door.lane(tenant),
        )
        work.lane.enter(len(handles), now)
        self._held._inbox.append((version, work))
        return work

    def wait(self) -> None:
        assert all(done.wait(PATIENCE) for done in self._done)


def test_one_step_of_a_modest_tenant_rides_before_what_a_greedy_one_has_waiting(
    one_server: RunningServer, held: Engine, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [wire.create_for("greedy").handle for _ in range(MANY)]
    few = [wire.create_for(tenant).handle for tenant in ("modest", "other")]
    version, caller, rides = version_of(one_server, "tiny"), Caller(held), Rides(held, monkeypatch)
    with held_up(one_server):
        greedy = caller.come(version, many, "greedy")
        first = caller.come(version, few[:1], "modest")
        second = caller.come(version, few[1:], "other")
    caller.wait()
    assert rides.works[0] == [first], "alone, and before what came earlier"
    assert rides.works[1:] in ([[second], [greedy]], [[greedy, second]])


def test_a_step_waits_for_the_turn_of_one_other_model_and_not_for_the_round(
    one_server: RunningServer, held: Engine, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [one for one in held.versions if one.model in ("tiny", "letters")]
    many = [
        [wire.create_for("greedy", f"models/{one.model}").handle for _ in range(MANY)]
        for one in versions
    ]
    one = wire.create_for("modest").handle
    caller, rides, came = Caller(held), Rides(held, monkeypatch), list[Work]()
    turn = held.turns.turn

    def meanwhile(*args: Any, **options: Any) -> None:
        if not came:  # the turn of the first model
            came.append(caller.come(version_of(one_server, "tiny"), [one], "modest"))
        turn(*args, **options)

    monkeypatch.setattr(held.turns, "turn", meanwhile)
    with held_up(one_server):
        greedy = [
            caller.come(version, handles, "greedy")
            for version, handles in zip(versions, many, strict=True)
        ]
    caller.wait()
    assert rides.works == [greedy[:1], came, greedy[1:]]


def test_while_the_engine_makes_way_a_modest_step_runs_in_the_event_loop(
    one_server: RunningServer, held: Engine, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    resting, go_on = threading.Event(), threading.Event()

    def rest(company: Company, took: float) -> None:
        resting.set()
        assert go_on.wait(PATIENCE)

    monkeypatch.setattr(Company, "make_way", rest)
    many = [wire.create_for("greedy").handle for _ in range(2 * one_server.settings.max_batch)]
    one = wire.create_for("modest").handle
    version, caller = version_of(one_server, "tiny"), Caller(held)
    monkeypatch.setattr(version, "lone_seconds", 0.0)
    with held_up(one_server):
        held._company.expect_modest(math.inf)
        caller.come(version, many, "greedy")
    assert resting.wait(PATIENCE), "some of the greedy one's steps still wait"
    rides = Rides(held, monkeypatch)
    answer = wire.inference.Step(
        pb.StepRequest(
            handles=[one], step_indexes=[0], inputs=tensors.encode(np.ones((1, 3), np.float32))
        ),
        metadata=(("x-carousel-tenant", "modest"),),
        timeout=PATIENCE,
    )
    assert not answer.errors
    assert not go_on.is_set(), "the engine rests"
    assert len(rides.works) == 1
    assert rides.threads == [one_server.run(ident())]
    go_on.set()
    caller.wait()


@pytest.mark.parametrize("is_modest", [True, False])
def test_who_has_little_does_not_wait_for_what_is_to_be_called_and_others_do(
    one_server: RunningServer, held: Engine, wire: Wire, is_modest: bool
) -> None:
    handle = wire.create().handle
    version = version_of(one_server, "tiny")
    inputs = np.ones((1, *version.input_shape), version.input_dtype)
    answered = threading.Event()
    work = Work([handle], [0], inputs, lambda answer: answered.set(), lane=version.door.lane(""))
    work.lane.enter(1, 0.0)
    others = version.door.lane("greedy")
    if is_modest:
        others.enter(MANY, 0.0)
    assert work.lane.is_modest is is_modest

    async def turn() -> bool:
        with held._reins:  # since the engine rests
            held._calls.append(lambda: None)
        return held._turn_here(version, work)

    if is_modest:
        until(lambda: one_server.run(turn()))  # the engine may turn for itself now and then
    else:
        assert not one_server.run(turn())
        one_server.loop.call_soon_threadsafe(held.submit, version, work)
    assert answered.wait(PATIENCE)
    if is_modest:
        others.leave(MANY, 0)


async def ident() -> int:
    return threading.get_ident()


def test_the_engine_makes_way_only_after_somebody_modest_has_come(
    one_server: RunningServer, held: Engine, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests, gently, flush = list[float](), list[bool](), held.behind.flush

    def flushing(**options: bool) -> None:
        gently.append(options["gently"])
        flush(**options)

    monkeypatch.setattr(Company, "make_way", lambda company, took: rests.append(took))
    monkeypatch.setattr(held.behind, "flush", flushing)
    many = [wire.create_for("greedy").handle for _ in range(2 * one_server.settings.max_batch)]
    one = wire.create_for("modest").handle
    version, caller = version_of(one_server, "tiny"), Caller(held)
    with held_up(one_server):
        caller.come(version, many[::2], "greedy")
        caller.come(version, many[1::2], "greedy-too")
    caller.wait()
    assert rests == [], "both have much"
    assert not any(gently)
    assert version.scheduler._short_until == 0.0
    monkeypatch.setattr(version, "lone_seconds", 0.0)
    with held_up(one_server):
        for handles in (many[::2], many[1::2]):
            caller.come(version, handles, "greedy")  # of a step that was: answered in their turn
        modest = caller.come(version, [one], "modest", now=-math.inf)
    caller.wait()
    assert modest.lane.inside == 0
    assert rests, "it came, and some of the others' steps waited on"
    assert any(gently)
    assert version.scheduler._short_until > 0.0


def test_what_may_be_the_first_of_a_crowd_makes_turns_short_for_a_moment_alone(
    one_server: RunningServer, held: Engine, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests, shorts = list[float](), list[float]()
    monkeypatch.setattr(Company, "make_way", lambda company, took: rests.append(took))
    many = [wire.create_for("greedy").handle for _ in range(2 * one_server.settings.max_batch)]
    one = wire.create_for("modest").handle
    version, caller = version_of(one_server, "tiny"), Caller(held)
    monkeypatch.setattr(version, "lone_seconds", 0.0)
    monkeypatch.setattr(
        version.scheduler, "be_short", lambda now, *, seconds=SHORT_FOR: shorts.append(seconds)
    )
    with held_up(one_server):
        caller.come(version, many, "greedy")
        caller.come(version, [one], "modest", now=math.inf)
    caller.wait()
    assert rests == []
    assert shorts == [GROWS]


def test_a_step_that_comes_during_a_turn_does_not_wait_for_the_store(
    one_server: RunningServer, held: Engine, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [wire.create_for("greedy").handle for _ in range(2 * one_server.settings.max_batch)]
    one = wire.create_for("modest").handle
    version, caller = version_of(one_server, "tiny"), Caller(held)
    did, came, turn, flush = list[str](), list[Work](), held.turns.turn, held.behind.flush

    def meanwhile(version: LoadedVersion, plan: Any, **options: Any) -> None:
        if len(plan) > 1 and not came:
            came.append(caller.come(version, [one], "modest"))
        did.append("one" if len(plan) == 1 else "many")
        turn(version, plan, **options)

    def flushing(**options: bool) -> None:
        did.append("store")
        flush(**options)

    monkeypatch.setattr(held.turns, "turn", meanwhile)
    monkeypatch.setattr(held.behind, "flush", flushing)
    with held_up(one_server):
        caller.come(version, many, "greedy")
    caller.wait()
    until(lambda: "store" in did[did.index("many") :])
    assert did[did.index("many") :][:3] == ["many", "one", "store"]


def test_nobody_makes_way_for_whom_the_event_loop_can_not_step(
    one_server: RunningServer, held: Engine, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests = list[float]()
    monkeypatch.setattr(Company, "make_way", lambda company, took: rests.append(took))
    many = [wire.create_for("greedy").handle for _ in range(2 * one_server.settings.max_batch)]
    few = [wire.create_for("modest").handle for _ in range(2)]
    version, caller = version_of(one_server, "tiny"), Caller(held)
    monkeypatch.setattr(version, "lone_seconds", 0.0)
    with held_up(one_server):
        caller.come(version, many, "greedy")
        caller.come(version, few, "modest", now=-math.inf)
    caller.wait()
    assert rests == []
    assert version.scheduler._short_until > 0.0, "but turns are short"


def test_a_modest_step_is_not_left_behind_when_a_crowd_is_waited_for(
    one_server: RunningServer, held: Engine, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = wire.create_for("modest").handle
    version, caller = version_of(one_server, "tiny"), Caller(held)
    left, gathered = list[int](), threading.Event()
    came, flush = list[Work](), held.behind.flush

    def flushing(**options: bool) -> None:
        flush(**options)
        if not came:
            came.append(caller.come(version, [one], "modest"))

    def gather(company: Company, inbox: Any) -> None:
        left.append(len(inbox))
        gathered.set()

    others = version.door.lane("greedy")
    others.enter(MANY, 0.0)
    monkeypatch.setattr(Company, "is_expected", lambda company, waiting: not gathered.is_set())
    monkeypatch.setattr(Company, "gather", gather)
    with held_up(one_server):
        monkeypatch.setattr(held.behind, "flush", flushing)
    caller.wait()
    assert gathered.wait(PATIENCE)
    assert left == [0]
    others.leave(MANY, 0)


def test_somebody_modest_is_known_while_parked_sessions_are_brought_back(
    one_server: RunningServer, held: Engine, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = wire.create_for("modest").handle
    version, caller = version_of(one_server, "tiny"), Caller(held)
    others = version.door.lane("greedy")
    others.enter(MANY, 0.0)
    with held_up(one_server):
        monkeypatch.setattr(type(held.away), "__len__", lambda away: 1)
        caller.come(version, [one], "modest", now=-math.inf)
    caller.wait()
    monkeypatch.undo()
    assert version.scheduler._short_until > 0.0
    others.leave(MANY, 0)


def test_of_a_step_that_rode_alone_nothing_is_learned_about_turns(
    one_server: RunningServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = list[int]()
    scheduler = version_of(one_server, "tiny").scheduler
    monkeypatch.setattr(scheduler, "took", lambda steps, seconds: took.append(steps))
    one, other = wire.create().handle, wire.create().handle
    wire.outputs([one], [0], np.ones((1, 3), np.float32))
    assert took == []
    wire.outputs([one, other], [1, 0], np.ones((2, 3), np.float32))
    assert took == [2]


@pytest.mark.parametrize(("took", "rest"), [(0.0004, REST * 0.0004), (1.0, LONGEST_REST)])
def test_a_round_makes_way_for_a_part_of_what_it_took(
    took: float, rest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = list[float]()
    monkeypatch.setattr("carousel.server.company.time.sleep", slept.append)
    Company(threading.Event()).make_way(took)
    assert slept == [pytest.approx(rest)]


def test_callers_without_a_tenant_are_told_apart_by_their_connections(
    one_server: RunningServer, held: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(wire: Wire, handles: list[int]) -> Any:
        return wire.inference.Step.future(
            pb.StepRequest(
                handles=handles,
                step_indexes=[0] * len(handles),
                inputs=tensors.encode(np.ones((len(handles), 3), np.float32)),
            ),
            timeout=PATIENCE,
        )

    own = (("grpc.use_local_subchannel_pool", 1),)
    with (
        grpc.insecure_channel(one_server.target, own) as here,
        grpc.insecure_channel(one_server.target, own) as there,
    ):
        greedy, modest = Wire(here), Wire(there)
        many = [greedy.create().handle for _ in range(MANY)]
        few = [modest.create().handle]
        rides = Rides(held, monkeypatch)
        with held_up(one_server):
            calls = [step(greedy, many)]
            until(lambda: len(held._inbox) == 1)
            calls.append(step(modest, few))
            until(lambda: len(held._inbox) == 2)
        assert not [error for call in calls for error in call.result().errors]
    assert [len(works[0]) for works in rides.works] == [1, MANY]
