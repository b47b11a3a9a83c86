"""Who waits for company, and what comes and goes together."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from carousel.server.company import Company
from carousel.server.door import Door
from carousel.server.plan import Plan
from carousel.server.step_queue import StepQueue
from carousel.server.work import Answer, Ints, Work

COUNTS = [1, 3, 1, 2]  # items of each work


def test_whoever_is_alone_never_waits() -> None:
    company = Company(threading.Event())
    assert not company.is_expected(0)
    for _ in range(5):
        company.ride(1, 0)
        assert not company.is_expected(0)


def test_a_crowd_is_expected_until_as_many_are_back() -> None:
    company = Company(threading.Event())
    company.ride(4, 2)
    assert company.is_expected(2)
    company.gather([])
    assert not company.is_expected(0), "it was waited for"
    company.ride(4, 4)
    assert not company.is_expected(4)


def test_turns_of_one_round_are_one_crowd() -> None:
    company = Company(threading.Event())
    company.ride(1, 0)
    company.ride(1, 0)
    assert company.is_expected(0)


def ignore(answer: Answer) -> None:
    """Answers are not looked at here."""


@pytest.fixture
def works() -> list[Work]:
    lane = Door(limit=2**40, tenant_limit=2**40).lane("")
    return [Work([0] * n, [0] * n, np.zeros((n, 2), np.float32), ignore, lane=lane) for n in COUNTS]


def push(queue: StepQueue, works: list[Work], serving: Ints) -> None:
    total = sum(COUNTS)
    queue.push(
        works,
        np.array(COUNTS),
        items=np.concatenate([np.arange(n) for n in COUNTS]),
        handles=np.arange(total, dtype=np.uint64),
        indexes=np.arange(total) * 10,
        slots=np.arange(total)[::-1].copy(),
        tickets=serving[np.arange(total)[::-1]],
        inputs=np.arange(2 * total, dtype=np.float32).reshape(total, 2),
    )


def columns(plan: Plan | None) -> list[list[object]]:
    assert plan is not None
    names = ("bounds", "items", "slots", "tickets", "handles", "indexes", "inputs")
    return [list(plan.works), *(getattr(plan, name).tolist() for name in names)]


def test_what_leaves_as_a_whole_is_what_leaves_one_by_one(works: list[Work]) -> None:
    serving = np.arange(sum(COUNTS)) + 5
    whole, spread = StepQueue((2,), np.float32), StepQueue((2,), np.float32)
    push(whole, works, serving)
    push(spread, works, serving)
    places = spread.ready(serving, 100)
    assert whole.lanes == spread.lanes
    assert columns(whole.take_whole(serving, 100)) == columns(spread.take(places))
    assert len(whole) == len(spread) == 0
    assert whole.lanes == spread.lanes == {}


def test_nobody_leaves_as_a_whole_before_all_may(works: list[Work]) -> None:
    queue, serving = StepQueue((2,), np.float32), np.arange(sum(COUNTS)) + 5
    push(queue, works, serving)
    assert queue.take_whole(serving, sum(COUNTS) - 1) is None
    behind = serving.copy()
    behind[2] -= 1
    assert queue.take_whole(behind, 100) is None
    assert len(queue.ready(behind, 100)) == sum(COUNTS) - 1
    assert queue.take_whole(serving, 100) is None, "it was looked at one by one"
    assert len(queue.ready(serving, 100)) == sum(COUNTS)


def test_what_comes_later_comes_behind(works: list[Work]) -> None:
    queue, serving = StepQueue((2,), np.float32), np.arange(sum(COUNTS)) + 5
    push(queue, works, serving)
    push(queue, works, serving)
    assert queue.take_whole(serving, 100) is None
    plan = queue.take(queue.ready(serving, 100))
    assert plan.works == [*works, *works]
    assert plan.handles.tolist() == [*range(sum(COUNTS)), *range(sum(COUNTS))]
