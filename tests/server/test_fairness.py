"""Fairness: tenants share the steps, interactive work goes first, and bulk work makes room."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processes import PATIENCE
from tests.server.bakery import Bakery

BATCH = 32


@dataclass(frozen=True)
class Crowd:
    """Sessions of a tenant that always have an item of `length` steps waiting."""

    tenant: str
    length: int
    sessions: int = 2 * BATCH
    bulk: bool = False


class Backlog:
    """A bakery that crowds never leave."""

    def __init__(self, crowds: Iterable[Crowd]) -> None:
        self._owners = [crowd for crowd in crowds for _ in range(crowd.sessions)]
        self.bakery = Bakery(BATCH, len(self._owners))
        for slot in range(len(self._owners)):
            self._push(slot)

    def turn(self) -> Counter[str]:
        """Take a turn; the steps that each tenant has had so far."""
        before = self.bakery.serving.copy()
        for slot in self.bakery.turn():
            if self.bakery.serving[slot] > before[slot]:
                self._push(slot)
        return self.bakery.steps

    def turns(self, count: int) -> Counter[str]:
        for _ in range(count):
            self.turn()
        return self.bakery.steps

    def _push(self, slot: int) -> None:
        crowd = self._owners[slot]
        if crowd.length == 1:
            self.bakery.push([slot], crowd.tenant, bulk=crowd.bulk)
        else:
            self.bakery.push_chunk(slot, crowd.length, crowd.tenant, bulk=crowd.bulk)


def spread(steps: Counter[str], tenants: Iterable[str]) -> int:
    found = [steps[tenant] for tenant in tenants]
    return max(found) - min(found)


@given(st.lists(st.integers(1, 100), min_size=2, max_size=5), st.booleans())
@settings(deadline=None, max_examples=30)
def test_tenants_that_always_wait_get_the_same_steps_whatever_their_items_are(
    lengths: list[int], bulk: bool
) -> None:
    names = [f"tenant-{number}" for number in range(len(lengths))]
    crowds = [Crowd(n, length, bulk=bulk) for n, length in zip(names, lengths, strict=True)]
    backlog = Backlog(crowds)
    single = 1 in lengths
    chunks = any(length > 1 for length in lengths)
    # Of one kind of turn, tenants are never further apart than one slice; of two, than one turn.
    allowed = (1 if not chunks else 16) + (BATCH + 16) * (single and chunks)
    for _ in range(60):
        assert spread(backlog.turn(), names) <= allowed


def test_a_tenant_gains_nothing_by_sending_both_steps_and_chunks() -> None:
    backlog = Backlog([Crowd("both", 1), Crowd("both", 50), Crowd("steps", 1)])
    steps = backlog.turns(200)
    assert abs(steps["both"] - steps["steps"]) <= BATCH + 16


def test_a_tenant_gains_nothing_by_having_more_sessions() -> None:
    backlog = Backlog([Crowd("many", 1, sessions=20 * BATCH), Crowd("some", 1, sessions=BATCH)])
    assert spread(backlog.turns(100), ["many", "some"]) <= 1


def test_what_one_tenant_does_not_take_the_others_get() -> None:
    backlog = Backlog([Crowd("small", 1, sessions=3), Crowd("large", 1), Crowd("larger", 1)])
    steps = backlog.turns(100)
    assert steps["small"] == 300
    assert steps.total() == 100 * BATCH
    assert spread(steps, ["large", "larger"]) <= 1


@pytest.mark.parametrize("length", [1, 50])
def test_a_single_step_rides_in_the_next_turn_or_the_one_after_however_much_others_have(
    length: int,
) -> None:
    bakery = Bakery(BATCH, sessions=1001)
    for slot in range(1000):
        if length == 1:
            bakery.push([slot], "greedy")
        else:
            bakery.push_chunk(slot, length, "greedy")
    for _ in range(7):
        bakery.turn()
    bakery.push([1000], "modest")
    assert 1000 in bakery.turn() + (bakery.turn() if length > 1 else [])


def test_a_step_now_and_then_waits_for_no_more_than_the_turn_that_runs_beside_bulk_slices() -> None:
    bakery = Bakery(BATCH, sessions=1001)
    for slot in range(1000):
        bakery.push_chunk(slot, 10_000, "greedy", bulk=True)
    for _ in range(200):
        bakery.turn()  # of slices, in which the greedy one gets what the other left over, and more
        bakery.push([1000], "modest")
        assert bakery.turn() == [1000]


def test_who_could_take_only_little_is_owed_nothing_later() -> None:
    bakery = Bakery(BATCH, sessions=1000)
    bakery.push([0] * 200, "one session")  # one step a turn
    for slot in range(1, 500):
        bakery.push([slot] * 20, "large")
    for _ in range(100):
        bakery.turn()
    bakery.steps.clear()
    bakery.push(list(range(500, 1000)), "one session")
    for _ in range(10):
        bakery.turn()
    assert spread(bakery.steps, ["one session", "large"]) <= 1


def test_a_tenant_that_was_away_is_owed_nothing() -> None:
    bakery = Bakery(BATCH, sessions=1000)
    for slot in range(200):
        bakery.push([slot] * 100, "always here")
    bakery.push([999], "back")
    for _ in range(300):
        bakery.turn()
    bakery.steps.clear()
    for slot in range(200, 400):
        bakery.push([slot] * 100, "back")
    for _ in range(50):
        bakery.turn()
    assert spread(bakery.steps, ["always here", "back"]) <= 1


@pytest.mark.parametrize("interactive", [1, 60])
@pytest.mark.parametrize("bulk", [1, 60])
def test_bulk_gets_a_step_for_sixteen_interactive_ones_that_always_wait(
    interactive: int, bulk: int
) -> None:
    backlog = Backlog([Crowd("i", interactive, 20 * BATCH), Crowd("b", bulk, 20 * BATCH, True)])
    steps = backlog.turns(400)
    assert steps["b"] == pytest.approx(steps["i"] / 16, rel=0.05)


@pytest.mark.parametrize("bulk", [1, 60])
def test_bulk_gets_what_interactive_work_leaves_over(bulk: int) -> None:
    backlog = Backlog([Crowd("i", 1, sessions=BATCH // 4), Crowd("b", bulk, bulk=True)])
    steps = backlog.turns(200)
    if bulk == 1:  # both in the same turns
        assert steps == {"i": 200 * BATCH / 4, "b": 200 * BATCH * 3 / 4}
    else:  # in turns of its own, for the places that stayed empty
        assert steps["b"] == pytest.approx(steps["i"] * 3, rel=0.1)


def test_interactive_work_that_fits_rides_at_once_whatever_bulk_waits() -> None:
    bakery = Bakery(BATCH, sessions=1000)
    for slot in range(500):
        bakery.push([slot], "b", bulk=True)
    bakery.turn()
    for first in range(500, 980, 24):
        bakery.push(list(range(first, first + 24)), "i")
        assert set(range(first, first + 24)) <= set(bakery.turn())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a", "b"]),
            st.booleans(),
            st.lists(st.integers(0, 7), min_size=1, max_size=12),
            st.integers(1, 40),
        ),
        max_size=20,
    )
)
@settings(deadline=None)
def test_everything_rides_once_and_no_session_twice_in_a_turn(
    works: list[tuple[str, bool, list[int], int]],
) -> None:
    bakery = Bakery(4)
    for tenant, bulk, slots, length in works:
        if length % 2:
            bakery.push(slots, tenant, bulk=bulk)
        else:
            bakery.push_chunk(slots[0], length, tenant, bulk=bulk)
    while riders := bakery.turn():
        assert len(set(riders)) == len(riders) <= 4
    wanted = Counter[str]()
    for tenant, _, slots, length in works:
        wanted[tenant] += len(slots) if length % 2 else length
    assert bakery.steps == wanted
    assert len(bakery.scheduler) == 0


def test_the_newest_bulk_items_make_room_and_no_others() -> None:
    bakery = Bakery(BATCH, sessions=100, max_queue=40)
    bakery.push(list(range(30)), "a", bulk=True)
    assert bakery.shed() == []
    bakery.push(list(range(30, 45)), "b")
    assert sorted(bakery.shed()) == list(range(25, 30))
    bakery.push(list(range(45, 75)), "c")
    assert sorted(bakery.shed()) == list(range(25))
    assert len(bakery.scheduler) == 45  # interactive work is the door's business
    rode = bakery.turn() + bakery.turn()
    assert sorted(rode) == list(range(30, 75))


def test_a_tenant_s_own_bulk_makes_room_for_its_own_work() -> None:
    bakery = Bakery(BATCH, sessions=100, max_queue=100, max_tenant_queue=20)
    bakery.push(list(range(15)), "a", bulk=True)
    bakery.push(list(range(15, 30)), "b", bulk=True)
    bakery.push(list(range(30, 40)), "a")
    assert sorted(bakery.shed()) == list(range(10, 15))


def test_what_is_shed_is_last_in_its_session_s_line() -> None:
    bakery = Bakery(BATCH, sessions=4, max_queue=5)
    bakery.push([0, 1, 0, 1, 0], "a", bulk=True)
    bakery.push([1, 2], "a")  # behind bulk items of session 1, which have to stay for it
    assert bakery.shed() == [0, 0]
    rode = bakery.turn() + bakery.turn() + bakery.turn()
    assert sorted(rode) == [0, 1, 1, 1, 2]
    bakery.push([0], "a")
    assert bakery.turn() == [0]


def test_a_chunk_that_has_begun_is_not_shed() -> None:
    bakery = Bakery(BATCH, sessions=40, max_queue=2)
    bakery.push_chunk(0, 40, "a", bulk=True)
    bakery.turn()
    bakery.push_chunk(1, 40, "a", bulk=True)
    bakery.push(list(range(2, 12)), "b")
    assert bakery.shed() == [1]


def slow_turns(bakery: Bakery, turns: int) -> int:
    """Take turns of 1 ms a step; how many rode the last one."""
    riders = 0
    for _ in range(turns):
        riders = len(bakery.turn())
        bakery.scheduler.took(riders, riders / 1000)
    return riders


def test_turns_are_full_between_lanes_with_much_and_short_once_that_is_said() -> None:
    bakery = Bakery(4 * BATCH, sessions=4002)
    for slot in range(4000):
        bakery.push([slot], f"greedy-{slot % 2}")
    assert slow_turns(bakery, 4) == 4 * BATCH
    for slot in (4000, 4001):
        bakery.push([slot], "modest")
        bakery.scheduler.be_short(time.monotonic() + PATIENCE)
        assert slow_turns(bakery, 1) == BATCH  # the least, since a step costs more in a small turn
        assert bakery.serving[slot] == 1


def test_turns_stay_short_though_somebody_else_asks_that_for_a_shorter_while() -> None:
    bakery = Bakery(4 * BATCH, sessions=4001)
    for slot in range(4000):
        bakery.push([slot], f"greedy-{slot % 2}")
    assert slow_turns(bakery, 4) == 4 * BATCH
    bakery.push([4000], "modest")
    bakery.scheduler.be_short(time.monotonic() + PATIENCE)
    bakery.scheduler.be_short(time.monotonic(), seconds=0.0)
    assert slow_turns(bakery, 1) == BATCH


def test_turns_are_short_while_a_few_interactive_steps_stand_beside_bulk_work() -> None:
    bakery = Bakery(4 * BATCH, sessions=4001)
    for slot in range(4000):
        bakery.push([slot], f"greedy-{slot % 2}", bulk=True)
    assert slow_turns(bakery, 4) == 4 * BATCH
    bakery.push([4000], "one")
    assert slow_turns(bakery, 1) == BATCH
    assert bakery.serving[4000] == 1


def three_lanes(bakery: Bakery) -> None:
    bakery.push_together({f"tenant-{n}": [2 * n, 2 * n + 1] for n in range(3)})


def test_lanes_that_came_together_and_fit_into_a_turn_ride_it_as_they_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bakery = Bakery(BATCH, sessions=BATCH)
    monkeypatch.setattr(bakery.scheduler, "_share", None)  # nobody chooses among them
    for _ in range(3):
        three_lanes(bakery)
        assert bakery.turn() == list(range(6))
        assert not bakery.scheduler.steps.lanes
    assert bakery.steps == {f"tenant-{n}": 6 for n in range(3)}


def test_lanes_that_came_together_are_told_apart_when_others_follow() -> None:
    bakery = Bakery(BATCH, sessions=BATCH)
    three_lanes(bakery)
    bakery.push([6], "tenant-3")
    assert sorted(bakery.scheduler.steps.lanes.values()) == [1, 2, 2, 2]
    assert sorted(bakery.turn()) == list(range(7))
    assert bakery.steps == {"tenant-0": 2, "tenant-1": 2, "tenant-2": 2, "tenant-3": 1}


def test_who_rides_along_leaves_no_debt_to_bulk_work() -> None:
    bakery = Bakery(BATCH, sessions=4 * BATCH)
    bakery.scheduler._bulk_owed = float(BATCH)
    three_lanes(bakery)
    assert len(bakery.turn()) == 6
    assert bakery.scheduler._bulk_owed == 0.0


def test_turns_are_short_for_single_steps_beside_long_chunks_of_another_lane() -> None:
    bakery = Bakery(4 * BATCH, sessions=100)
    for slot in range(16):
        bakery.push_chunk(slot, 10_000, "greedy")
    slow_turns(bakery, 4)
    bakery.push([99], "one")
    assert bakery.turn() == [99]
    bakery.scheduler.took(1, 0.0001)
    bakery.turn()
    assert time.monotonic() < bakery.scheduler._short_until


def test_a_step_now_and_then_does_not_wait_for_many_short_turns_of_bulk_slices() -> None:
    bakery = Bakery(4 * BATCH, sessions=1001)
    for slot in range(1000):
        bakery.push_chunk(slot, 10_000, "greedy", bulk=True)
    for _ in range(200):
        slow_turns(bakery, 1)
        bakery.push([1000], "modest")
        assert bakery.turn() == [1000]
        bakery.scheduler.took(1, 0.0002)
