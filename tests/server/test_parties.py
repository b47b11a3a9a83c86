"""Who has little beside others: over all models, and by the most that anybody had at a time."""

from __future__ import annotations

import pytest

from carousel.server.door import Door, Lane
from carousel.server.parties import FEW, GROWS, LITTLE, MOMENT, WINDOW, Parties

MANY = 10_000


@pytest.fixture
def doors() -> tuple[Door, Door]:
    """Of two models."""
    parties = Parties()
    one, other = (Door(limit=MANY, tenant_limit=MANY // 2, parties=parties) for _ in range(2))
    return one, other


def test_a_lane_is_modest_that_has_little_beside_what_each_party_has(
    doors: tuple[Door, Door],
) -> None:
    one, greedy = doors[0].lane("one"), doors[1].lane("greedy")
    one.enter(1, 0.0)
    assert not one.is_modest, "nobody else is there"
    greedy.enter(2 * FEW, 0.0)
    assert one.is_modest, "what is inside of another model counts"
    assert not greedy.is_modest
    elsewhere = doors[1].lane("one")
    elsewhere.enter(1, 0.0)
    assert not one.is_modest, "it has more than a small part of the average, of both models"
    elsewhere.leave(1, 0)


def test_bulk_work_is_never_modest_for_it_can_wait(doors: tuple[Door, Door]) -> None:
    doors[0].lane("greedy").enter(100 * FEW, 0.0)
    bulk = doors[0].lane("batch", bulk=True)
    bulk.enter(1, 0.0)
    assert not bulk.is_modest


def came_and_went(lane: Lane, count: int, now: float) -> None:
    lane.enter(count, now)
    lane.leave(count, 0)


def test_who_had_much_a_moment_ago_is_not_modest_but_is_after_a_while(
    doors: tuple[Door, Door],
) -> None:
    door = doors[0]
    door.lane("greedy").enter(100 * FEW, 0.0)
    came_and_went(door.lane("crowd"), 100 * FEW, 0.0)
    for now in (0.0, WINDOW / 2, 1.1 * WINDOW):
        first = door.lane("crowd")
        first.enter(1, now)
        assert not first.is_modest, "the first of its sessions is back"
        first.leave(1, 0)
    door.lane("greedy").enter(1, 2.2 * WINDOW)
    last = door.lane("crowd")
    last.enter(1, 2.2 * WINDOW)
    assert last.is_modest


def test_what_somebody_had_before_a_long_silence_is_forgotten(doors: tuple[Door, Door]) -> None:
    door = doors[0]
    came_and_went(door.lane("crowd"), 100 * FEW, 0.0)
    door.lane("greedy").enter(100 * FEW, 3600.0)
    one = door.lane("crowd")
    one.enter(1, 3600.0)
    assert one.is_modest


def test_nobody_is_asked_while_all_have_alike(doors: tuple[Door, Door]) -> None:
    parties = doors[0].parties
    lanes = [doors[0].lane(str(number)) for number in range(8)]
    for lane in lanes:
        lane.enter(FEW - 1, 0.0)
    assert not parties.are_unlike
    lanes[0].enter(8 * FEW, 0.0)
    assert parties.are_unlike


def test_who_had_much_is_beside_others_a_moment_longer(doors: tuple[Door, Door]) -> None:
    greedy, one = doors[0].lane("greedy"), doors[1].lane("one")
    came_and_went(greedy, 3 * FEW, 0.0)
    for now in (0.1 * MOMENT, 1.1 * MOMENT):
        one.enter(1, now)
        assert one.is_modest, "of calls most are on their way"
        one.leave(1, 0)
    one.enter(1, 2.2 * MOMENT)
    assert not one.is_modest, "nobody else is there"


def test_what_came_all_at_once_is_long_gone_after_a_silence(doors: tuple[Door, Door]) -> None:
    one = doors[0].lane("one")
    came_and_went(doors[0].lane("greedy"), 100 * FEW, 0.0)
    one.enter(1, 3 * MOMENT)
    assert not one.is_modest


def test_more_than_a_few_items_are_not_little_beside_whatever(doors: tuple[Door, Door]) -> None:
    doors[0].lane("greedy").enter(1000 * LITTLE, 0.0)
    one = doors[0].lane("one")
    one.enter(LITTLE, 0.0)
    assert one.is_modest
    one.enter(1, 0.0)
    assert not one.is_modest, "they ride faster together"


def test_of_many_alike_nobody_is_modest_while_most_are_away(doors: tuple[Door, Door]) -> None:
    lanes = [doors[0].lane(str(number)) for number in range(4 * FEW)]
    for lane in lanes:
        lane.enter(1, 0.0)
    for lane in lanes[1:]:
        lane.leave(1, 0)
    assert not lanes[0].is_modest
    assert not doors[0].parties.are_unlike


def test_callers_that_come_and_go_do_not_change_what_is_little(doors: tuple[Door, Door]) -> None:
    doors[0].lane("greedy").enter(3 * FEW, 0.0)
    for number in range(100):
        came_and_went(doors[0].lane("", party=str(number)), 1, 0.0)
    one = doors[0].lane("one")
    one.enter(1, 0.0)
    assert one.is_modest


def test_what_has_only_begun_to_come_may_become_more(doors: tuple[Door, Door]) -> None:
    door = doors[0]
    lane = door.lane("crowd")
    lane.enter(1, 10.0)
    assert lane.may_grow(10.0)
    lane.enter(1, 10.0 + GROWS)
    assert lane.may_grow(10.0 + 1.5 * GROWS), "it has more than ever"
    lane.leave(1, 0)
    lane.enter(1, 10.0 + 2.5 * GROWS)
    assert not lane.may_grow(10.0 + 2.5 * GROWS)


def test_without_a_tenant_a_connection_is_a_party(doors: tuple[Door, Door]) -> None:
    door = doors[0]
    here, there = door.lane("", party="ipv4:1"), door.lane("", party="ipv4:2")
    here.enter(2 * FEW, 0.0)
    there.enter(1, 0.0)
    assert here.number != there.number
    assert there.is_modest
    assert door.lane("", party="ipv4:2") is there
    shop = door.lane("shop", party="ipv4:1")
    shop.enter(1, 0.0)
    assert door.lane("shop", party="ipv4:2") is shop, "a tenant is one wherever it calls from"


def test_who_is_gone_is_forgotten(doors: tuple[Door, Door]) -> None:
    parties = doors[0].parties
    for number in range(100):
        came_and_went(doors[0].lane("", party=str(number)), 1, 0.0)
    assert len(parties._parties) == 100
    for now in (1.1 * WINDOW, 2.2 * WINDOW, 3.3 * WINDOW):
        came_and_went(doors[0].lane("stays"), 1, now)
    assert list(parties._parties) == ["stays"]
