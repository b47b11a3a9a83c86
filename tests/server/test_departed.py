"""The departed: what is said of handles that nobody has any more, and to whom."""

from __future__ import annotations

import pytest

from carousel.server.departed import Ended
from carousel.server.names import key_of
from carousel.server.table import FEW, SessionTable

UNKNOWN = list(range(1, 2 * FEW))


def former_handle(table: SessionTable, session_id: str) -> int:
    """Of a session that has ended."""
    slot = table.insert(session_id, version=1, row=0, ttl=1.0, lifetime=1.0, now=0.0)
    handle = int(table.handle[slot])
    table.remove(slot, Ended(session_id, "m/1", 1, "CLOSED", 0, 0.0, 0.0))
    return handle


def told(table: SessionTable, handles: list[int], tenant: str) -> list[str]:
    runs = table.why_none(handles, tenant)
    return [error.message for error, count in runs for _ in range(count)]


@pytest.mark.parametrize("unknown", [UNKNOWN[: FEW // 2], UNKNOWN], ids=["few", "many"])
def test_former_handles_of_a_rival_are_among_strays_as_those_that_never_were(
    unknown: list[int],
) -> None:
    table = SessionTable()
    rival, own = (former_handle(table, key_of(tenant, "s")) for tenant in ("rival", "mine"))
    handles = [*unknown, rival, *unknown[:2], own, rival]
    said = told(table, handles, "mine")
    instead = [handle ^ 1 << 50 if handle == rival else handle for handle in handles]
    fair = told(table, instead, "mine")
    shown = [line.replace(f"{rival ^ 1 << 50:#018x}", f"{rival:#018x}") for line in fair]
    assert said == shown
    assert "has ended" in said[handles.index(own)]
    assert "has ended" in told(table, handles, "rival")[handles.index(rival)]
