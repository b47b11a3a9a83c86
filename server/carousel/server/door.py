"""The door of a model version: how much of each tenant's work may come in at a time."""

from __future__ import annotations

from collections import deque

from carousel.errors import QueueFull
from carousel.server.parties import Parties

PACE_SECONDS = 0.25  # how often the served rate is measured anew
UNKNOWN_RETRY, SHORTEST_RETRY, LONGEST_RETRY = 1.0, 0.01, 60.0

SESSION_FULL, TENANT_FULL, QUEUE_FULL, SHED = "session_full", "tenant_full", "queue_full", "shed"
"""Why an item is refused, in the metric of rejections."""


class Lane:
    """The work of one party and one priority that is on its way through a version.

    `number` is even for interactive and odd for bulk work; `other` is the same party's lane of
    the other priority.
    """

    __slots__ = ("_door", "bulk", "inside", "number", "other", "party", "tenant")

    other: Lane

    def __init__(self, door: Door, tenant: str, party: str, *, bulk: bool) -> None:
        self._door = door
        self.tenant = tenant
        self.party = party
        self.bulk = bulk
        self.number = int(bulk)
        self.inside = 0

    @property
    def is_modest(self) -> bool:
        """Whether it is interactive, of who has little beside others; from any thread."""
        return not self.bulk and self._door.parties.is_modest(self.party)

    def may_grow(self, now: float) -> bool:
        """Whether its party's work has only begun to come; from any thread."""
        return self._door.parties.may_grow(self.party, now)

    def room(self) -> int:
        """How many more items may come in."""
        return min(self._rooms())

    def refusal(self, what: str) -> tuple[QueueFull, str]:
        """Why there is no room for more items of `what`: for the caller, and for the metrics."""
        door = self._door
        of_party, of_all = self._rooms()
        if of_all < of_party:
            return door.full(f"at most {door.limit} items may wait for {what}"), QUEUE_FULL
        whose = "one tenant" if self.tenant else "callers without a tenant"
        message = f"at most {door.tenant_limit} items of {whose} may wait for {what}"
        return door.full(message), TENANT_FULL

    def _rooms(self) -> tuple[int, int]:
        """Room that the tenant has, or all have who name none, and that there is for everybody.

        Bulk work is not in the way of interactive work: it is shed where more waits than may.
        """
        door = self._door
        mine, others = self.inside, self.other.inside
        if not self.tenant:
            mine, others = door.nameless[self.bulk], door.nameless[not self.bulk]
        if self.bulk:
            return door.tenant_limit - mine - others, door.limit - door.inside
        return door.tenant_limit - mine, door.limit - door.inside + door.bulk_inside

    def enter(self, count: int, now: float) -> None:
        """Let items in; `now` is on the clock of time.monotonic."""
        door = self._door
        if not (self.inside or self.other.inside):
            door.register(self)
        self.inside += count
        door.enter(count, now)
        door.parties.enter(self.party, count, now)
        if not self.tenant:
            door.nameless[self.bulk] += count
        if self.bulk:
            door.bulk_inside += count

    def leave(self, served: int, refused: int) -> None:
        """Items were answered."""
        door, count = self._door, served + refused
        self.inside -= count
        door.inside -= count
        door.served += served
        door.parties.leave(self.party, count)
        if not self.tenant:
            door.nameless[self.bulk] -= count
        if self.bulk:
            door.bulk_inside -= count
        if not (self.inside or self.other.inside):
            door.forget(self)


class Door:
    """Counts what is inside: items that came in and have no answer yet. Of the event loop's thread.

    To refuse must cost far less than to serve, so this is asked before a message is decoded.
    """

    def __init__(self, *, limit: int, tenant_limit: int, parties: Parties | None = None) -> None:
        self.parties = parties or Parties()  # of all doors
        self.limit = limit
        self.tenant_limit = tenant_limit
        self.inside = 0
        self.bulk_inside = 0
        self.nameless = [0, 0]  # inside of callers without a tenant: interactive, bulk
        self.served = 0
        self._lanes: dict[str, tuple[Lane, Lane]] = {}  # of parties with something inside
        self._numbers: deque[int] = deque()  # of parties that left, to be given again
        self._rate = 0.0  # items served a second
        self._since, self._served_before = 0.0, 0

    def lane(self, tenant: str, *, party: str = "", bulk: bool = False) -> Lane:
        """`party` counts where there is no tenant."""
        party = tenant or party
        pair = self._lanes.get(party)
        if pair is None:
            pair = (
                Lane(self, tenant, party, bulk=False),
                Lane(self, tenant, party, bulk=True),
            )
            pair[0].other, pair[1].other = pair[1], pair[0]
        return pair[bulk]

    def inside_of(self, tenant: str) -> int:
        """A tenant's items, of both priorities."""
        pair = self._lanes.get(tenant)
        return 0 if pair is None else pair[0].inside + pair[1].inside

    def register(self, lane: Lane) -> None:
        """The first work of a party comes in."""
        number = self._numbers.popleft() if self._numbers else len(self._lanes)
        pair = (lane.other, lane) if lane.bulk else (lane, lane.other)
        for bulk, one in enumerate(pair):
            one.number = 2 * number + bulk
        self._lanes[lane.party] = pair

    def forget(self, lane: Lane) -> None:
        """The last work of a party left."""
        del self._lanes[lane.party]
        self._numbers.append(lane.number // 2)

    def enter(self, count: int, now: float) -> None:
        if not self.inside:
            self._since, self._served_before = now, self.served  # time that was idle says nothing
        elif now - self._since > PACE_SECONDS:
            self._rate = (self.served - self._served_before) / (now - self._since)
            self._since, self._served_before = now, self.served
        self.inside += count

    def full(self, message: str) -> QueueFull:
        return QueueFull(message, field="handles", retry_after=self.retry_after())

    def retry_after(self) -> float:
        """Seconds until what is inside will have been served at the present rate."""
        if not self._rate:
            return UNKNOWN_RETRY
        return min(max(self.inside / self._rate, SHORTEST_RETRY), LONGEST_RETRY)


def _open_door() -> Lane:
    no_limit = 2**62
    return Door(limit=no_limit, tenant_limit=no_limit).lane("")


NOBODY = _open_door()
"""The lane of work that came through no door."""
