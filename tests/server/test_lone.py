"""A step of whoever is alone: run where it came, and nothing else about it is different."""

from __future__ import annotations

import math
import threading
from typing import Any

import grpc
import numpy as np
import pytest

from carousel.server import engine, gatekeeper, lone
from carousel.server.company import QUIET_SECONDS, Company
from carousel.server.table import QUARANTINED
from carousel.server.work import Work
from tests.conftest import RunningServer
from tests.server.contract import Floats, Wire
from tests.server.engines import in_engine, version_of

ROUNDS = 20


@pytest.fixture
def wire(channel: grpc.Channel) -> Wire:
    return Wire(channel)


def work_of(handle: int, index: int, value: float = 1.0) -> Work:
    return Work([handle], [index], np.full((1, 3), value, np.float32), lambda answer: None)


def test_a_lone_step_gives_what_it_gives_in_company(
    server: RunningServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SHORT_SECONDS", math.inf)
    planned, plan_of = list[Any](), lone.plan_of

    def seen(*args: Any) -> Any:
        planned.append(plan_of(*args))
        return planned[-1]

    monkeypatch.setattr(lone, "plan_of", seen)
    random = np.random.default_rng(1)
    inputs = random.standard_normal((ROUNDS, 1, 3), dtype=np.float32)
    alone, first, second = (wire.create().handle for _ in range(3))
    own: list[Floats] = []
    for index, one in enumerate(inputs):
        own.append(wire.outputs([alone], [index], one))
        again = wire.outputs([alone], [index], one)
        np.testing.assert_array_equal(again, own[-1], "asked again, it is answered from memory")
    assert any(plan is not None for plan in planned), "it was never alone"
    for index, one in enumerate(inputs):
        both = wire.outputs([first, second], [index] * 2, np.concatenate([one, one]))
        np.testing.assert_allclose(both, np.concatenate([own[index]] * 2), rtol=1e-5, atol=1e-6)


def test_until_when_the_engine_rests_is_decided_while_nobody_else_turns(
    server: RunningServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what a lone step leaves to be written could miss it, and wait for the next sweep."""
    held = server.server.hall.engine
    asked, due_in = list[bool](), held.behind.due_in

    def seen(now: float) -> float:
        if threading.current_thread() is held._thread:
            asked.append(held._reins.locked())
        return due_in(now)

    monkeypatch.setattr(held.behind, "due_in", seen)
    for _ in range(3):
        in_engine(server, lambda: None)
        wire.create()
    assert len(asked) > 3
    assert all(asked)


def test_a_lone_plan_is_that_of_the_queue(server: RunningServer, wire: Wire) -> None:
    session = wire.create()
    version, table = version_of(server), server.server.hall.engine.table

    def compare() -> None:
        works = work_of(session.handle, 0), work_of(session.handle, 0)
        plan = lone.plan_of(table, version, works[0], 0.0)
        assert plan is not None
        table.tail[plan.slots] -= 1
        assert gatekeeper.admit_together(table, version, [works[1]])
        queued = version.scheduler.next(table.serving)
        assert queued is not None
        table.tail[plan.slots] -= 1
        for name in ("bounds", "items", "slots", "tickets", "handles", "indexes", "inputs"):
            one, other = getattr(plan, name), getattr(queued, name)
            np.testing.assert_array_equal(one, other, name)
            assert one.dtype == other.dtype, name
        assert (plan.works, queued.works) == ([works[0]], [works[1]])
        assert plan.lengths is queued.lengths is None

    in_engine(server, compare)


def test_whatever_is_amiss_is_left_to_the_gatekeeper(server: RunningServer, wire: Wire) -> None:
    session, sick = wire.create(), wire.create()
    version, table = version_of(server), server.server.hall.engine.table
    late, gone = work_of(session.handle, 0), work_of(session.handle, 0)
    late.deadline, gone.cancelled = 5.0, True
    ahead = work_of(session.handle, 0)
    ahead.durables = [1]
    foreign = work_of(session.handle, 0)
    foreign.lane = version.door.lane("somebody-else")
    amiss = {
        "late": late,
        "gone": gone,
        "ahead of the server": ahead,
        "somebody else's": foreign,
        "a step too early": work_of(session.handle, 1),
        "far too early": work_of(session.handle, 2**64 - 1),
        "not a number": work_of(session.handle, 0, math.nan),
        "unknown": work_of(session.handle ^ (1 << 63), 0),
        "quarantined": work_of(sick.handle, 0),
    }

    def look() -> None:
        table.state[table.slot_of(sick.handle)] = QUARANTINED
        before = table.tail.copy()
        for name, work in amiss.items():
            assert lone.plan_of(table, version, work, 10.0) is None, name
        np.testing.assert_array_equal(table.tail, before)
        work = work_of(session.handle, 0)
        plan = lone.plan_of(table, version, work, 10.0)
        assert plan is not None
        assert lone.plan_of(table, version, work_of(session.handle, 0), 10.0) is None, "one waits"
        table.tail[plan.slots] -= 1

    in_engine(server, look)


def test_whoever_calls_again_or_after_a_while_is_alone() -> None:
    company = Company(threading.Event())
    assert company.is_alone(1, 100.0)
    assert company.is_alone(1, 100.0)
    assert not company.is_alone(2, 100.0 + QUIET_SECONDS / 2)
    assert company.is_alone(2, 100.0 + QUIET_SECONDS / 2)
    assert company.is_alone(1, 100.0 + 2 * QUIET_SECONDS)
    company.enough = 2
    assert not company.is_alone(1, 100.0 + 2 * QUIET_SECONDS), "a crowd is expected"
