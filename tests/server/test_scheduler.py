"""The scheduler: order within a session, fairness between them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from carousel.server.departed import Ended
from carousel.server.table import SessionTable
from tests.server.bakery import Bakery

ENDED = Ended("a", "models/m/versions/1", 1, "CLOSED", 0, 0.0, 0.0)


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), max_size=12))
@settings(deadline=None)
def test_a_session_rides_at_most_once_a_turn_and_every_item_rides(works: list[list[int]]) -> None:
    bakery = Bakery()
    for slots in works:
        bakery.push(slots)
    ridden: list[int] = []
    while riders := bakery.turn():
        assert len(set(riders)) == len(riders) <= 4
        ridden += riders
    assert sorted(ridden) == sorted(slot for slots in works for slot in slots)
    assert len(bakery.scheduler) == 0


def test_items_of_one_session_ride_in_order_of_arrival() -> None:
    bakery = Bakery()
    for slots in ([1, 2], [1, 3], [1]):
        bakery.push(slots)
    assert [bakery.turn() for _ in range(4)] == [[1, 2, 3], [1], [1], []]


def test_single_steps_ride_every_other_turn_while_long_chunks_wait() -> None:
    bakery = Bakery()
    for slot in range(8):
        bakery.push_chunk(slot, 10_000)
    bakery.push([8])
    bakery.push([9])
    first_two = bakery.turn() + bakery.turn()
    assert {8, 9} <= set(first_two)


def test_all_chunks_move_on_when_there_are_more_than_fit_into_a_turn() -> None:
    bakery = Bakery(max_batch=2)
    for slot in range(6):
        bakery.push_chunk(slot, 64)
    seen = [rider for _ in range(6) for rider in bakery.turn()]
    assert set(seen) == set(range(6))


def test_what_waits_with_a_handle_that_is_over_leaves_at_once_whoever_s_turn_it_is() -> None:
    bakery = Bakery()
    bakery.push([1, 1, 2])
    bakery.push_chunk(1, 40)
    handle = np.arange(16, dtype=np.uint64)  # in these tests a handle is its slot's number
    assert bakery.scheduler.take_fenced(handle) == []
    handle[1] = 99
    plans = bakery.scheduler.take_fenced(handle)
    assert sorted(slot for plan in plans for slot in plan.slots.tolist()) == [1, 1, 1]
    assert len(bakery.scheduler) == 1
    assert bakery.turn() == [2]
    assert bakery.turn() == []


def test_a_new_incarnation_waits_behind_nobody() -> None:
    table = SessionTable()
    slot = table.insert("a", version=1, row=0, ttl=1.0, lifetime=1.0, now=0.0)
    for end_line in (lambda: table.renew_handle(slot), lambda: table.remove(slot, ENDED)):
        table.tail[slot] += 4
        fences = table.fences
        end_line()
        assert table.serving[slot] == table.tail[slot]
        assert table.fences == fences + 1


def test_a_long_queue_of_one_session_is_taken_one_a_turn_in_order() -> None:
    bakery = Bakery()
    bakery.push([1] * 300)
    bakery.push([2, 1, 2])
    order = []
    while plan := bakery.scheduler.next(bakery.serving):
        order.append(list(zip(plan.slots.tolist(), plan.tickets.tolist(), strict=True)))
        bakery.serving[plan.slots] += 1
        assert len(bakery.scheduler) == 303 - sum(map(len, order))
    assert order[:3] == [[(1, 0), (2, 0)], [(1, 1), (2, 1)], [(1, 2)]]
    assert [ticket for riders in order for slot, ticket in riders if slot == 1] == list(range(301))
