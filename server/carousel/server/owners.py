"""Owners: the tenants that have live sessions, as numbers for the columns of the session table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carousel.server.work import Ints, Work

OPERATOR = 0  # the number of the empty tenant, whose sessions and reach are without bounds
NOBODY = -1  # that of a tenant without sessions: no handle is its own


@dataclass(slots=True)
class Holding:
    """What a tenant has in the table."""

    number: int
    sessions: int = 0
    bytes: int = 0  # of states: present, kept and bookmarked


class Owners:
    """Only the engine's thread changes it; any thread may read.

    A number is never given again: what waits with the number of a tenant that left matches nobody.
    """

    def __init__(self) -> None:
        self._holdings: dict[str, Holding] = {"": Holding(OPERATOR)}
        self._numbers = OPERATOR

    def number(self, tenant: str) -> int:
        found = self._holdings.get(tenant)
        return NOBODY if found is None else found.number

    def holding(self, tenant: str) -> Holding:
        return self._holdings.get(tenant) or Holding(NOBODY)

    def tenants(self) -> list[str]:
        return list(self._holdings)

    def numbers_of(self, works: Sequence[Work]) -> int | Ints:
        """Whose items these are: one number for all, or one for each item."""
        tenants = {work.lane.tenant for work in works}
        if len(tenants) == 1:
            return self.number(tenants.pop())
        numbers = np.array([self.number(work.lane.tenant) for work in works])
        return np.repeat(numbers, [len(work) for work in works])

    def enter(self, tenant: str, count: int) -> int:
        """So many sessions more; the tenant's number."""
        holding = self._holdings.get(tenant)
        if holding is None:
            self._numbers += 1
            holding = self._holdings[tenant] = Holding(self._numbers)
        holding.sessions += count
        return holding.number

    def leave(self, tenant: str) -> None:
        holding = self._holdings[tenant]
        holding.sessions -= 1
        if not holding.sessions and tenant:
            del self._holdings[tenant]

    def charge(self, tenant: str, more: int) -> None:
        """Its states take so many bytes more."""
        self._holdings[tenant].bytes += more
