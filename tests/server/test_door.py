"""The door: who may come in, and what the others are told."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carousel.server.door import QUEUE_FULL, TENANT_FULL, Door


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]), st.booleans(), st.integers(1, 8), st.booleans()
        ),
        max_size=60,
    )
)
@settings(deadline=None)
def test_the_door_holds_the_bounds_of_tenants_and_of_all(
    visits: list[tuple[str, bool, int, bool]],
) -> None:
    door = Door(limit=20, tenant_limit=12)
    inside = Counter[tuple[str, bool]]()
    for tenant, bulk, count, leaves in visits:
        lane = door.lane(tenant, bulk=bulk)
        if leaves:
            gone = min(count, inside[tenant, bulk])
            if gone:
                lane.leave(gone, 0)
                inside[tenant, bulk] -= gone
            continue
        mine = inside[tenant, False], inside[tenant, True]
        interactive = sum(n for (_, is_bulk), n in inside.items() if not is_bulk)
        if bulk:
            room = min(12 - sum(mine), 20 - inside.total())
        else:  # bulk work is no obstacle: it will make room
            room = min(12 - mine[0], 20 - interactive)
        assert lane.room() == room
        if room <= 0:
            assert lane.refusal("models/m")[1] in (TENANT_FULL, QUEUE_FULL)
        if entering := min(room, count):
            lane.enter(max(entering, 0), 0.0)
            inside[tenant, bulk] += max(entering, 0)
    numbers = [door.lane(*key[:1], bulk=key[1]).number for key, n in inside.items() if n]
    assert len(set(numbers)) == len(numbers)


def test_callers_without_a_tenant_have_one_bound_together() -> None:
    door = Door(limit=20, tenant_limit=12)
    here, there = door.lane("", party="ipv4:1"), door.lane("", party="ipv4:2")
    here.enter(7, 0.0)
    assert there.room() == 5
    there.enter(5, 0.0)
    assert there.room() == 0
    assert there.refusal("m")[1] == TENANT_FULL
    assert "of callers without a tenant may wait" in there.refusal("m")[0].message
    assert door.lane("", party="ipv4:3", bulk=True).room() == 0
    assert door.lane("shop", party="ipv4:1").room() == 8
    here.leave(7, 0)
    assert there.room() == 7


def test_a_refusal_says_after_how_long_what_waits_will_have_been_served() -> None:
    door = Door(limit=100, tenant_limit=100)
    lane = door.lane("a")
    lane.enter(100, 10.0)
    assert door.full("").retry_after == 1.0  # nothing is known yet
    lane.leave(50, 0)
    lane.enter(50, 11.0)
    assert door.full("").retry_after == pytest.approx(100 / 50)
    lane.leave(80, 0)
    lane.enter(0, 12.0)
    assert door.full("").retry_after == pytest.approx(20 / 80)
    lane.leave(20, 0)
    lane.enter(10, 500.0)  # time without work says nothing about the speed
    lane.leave(5, 0)
    lane.enter(0, 501.0)
    assert door.full("").retry_after == pytest.approx(5 / 5)
