"""The door of a model version: how much of each tenant's work may come in at a time."""

from __future__ import annotations

from collections import deque

from carousel.errors import QueueFull

PACE_SECONDS = 0.25  # how often the served rate is measured anew
FEW = 16  # a lane is modest that has less than this part of what each tenant has on average
UNKNOWN_RETRY, SHORTEST_RETRY, LONGEST_RETRY = 1.0, 0.01, 60.0

SESSION_FULL, TENANT_FULL, QUEUE_FULL, SHED = "session_full", "tenant_full", "queue_full", "shed"
"""Why an item is refused, in the metric of rejections."""


class Lane:
    """The work of one tenant and one priority that is on its way through a version.

    `number` is even for interactive and odd for bulk work; `other` is the same tenant's lane of
    the other priority.
    """

    __slots__ = ("_door", "bulk", "inside", "number", "other", "tenant")

    other: Lane

    def __init__(self, door: Door, tenant: str, *, bulk: bool) -> None:
        self._door = door
        self.tenant = tenant
        self.bulk = bulk
        self.number = int(bulk)
        self.inside = 0

    @property
    def is_modest(self) -> bool:
        """Whether it is interactive and has little beside what others have; from any thread."""
        door = self._door
        return not self.bulk and self.inside * FEW * len(door) < door.inside

    def room(self) -> int:
        """How many more items may come in."""
        return min(self._rooms())

    def refusal(self, what: str) -> tuple[QueueFull, str]:
        """Why there is no room for more items of `what`: for the caller, and for the metrics."""
        door = self._door
        of_tenant, of_all = self._rooms()
        if of_all < of_tenant:
            return door.full(f"at most {door.limit} items may wait for {what}"), QUEUE_FULL
        message = f"at most {door.tenant_limit} items of one tenant may wait for {what}"
        return door.full(message), TENANT_FULL

    def _rooms(self) -> tuple[int, int]:
        """Room that the tenant has, and that there is for all.

        Bulk work is not in the way of interactive work: it is shed where more waits than may.
        """
        door, others = self._door, self.other.inside
        if self.bulk:
            return door.tenant_limit - self.inside - others, door.limit - door.inside
        return door.tenant_limit - self.inside, door.limit - door.inside + door.bulk_inside

    def enter(self, count: int, now: float) -> None:
        """Let items in; `now` is on the clock of time.monotonic."""
        door = self._door
        if not (self.inside or self.other.inside):
            door.register(self)
        self.inside += count
        door.enter(count, now)
        if self.bulk:
            door.bulk_inside += count

    def leave(self, served: int, refused: int) -> None:
        """Items were answered."""
        door, count = self._door, served + refused
        self.inside -= count
        door.inside -= count
        door.served += served
        if self.bulk:
            door.bulk_inside -= count
        if not (self.inside or self.other.inside):
            door.forget(self)


class Door:
    """Counts what is inside: items that came in and have no answer yet. Of the event loop's thread.

    To refuse must cost far less than to serve, so this is asked before a message is decoded.
    """

    def __init__(self, *, limit: int, tenant_limit: int) -> None:
        self.limit = limit
        self.tenant_limit = tenant_limit
        self.inside = 0
        self.bulk_inside = 0
        self.served = 0
        self._tenants: dict[str, tuple[Lane, Lane]] = {}  # those with something inside
        self.is_shared = False  # whether they are more than one; looked at in every turn
        self._numbers: deque[int] = deque()  # of tenants that left, to be given again
        self._rate = 0.0  # items served a second
        self._since, self._served_before = 0.0, 0

    def __len__(self) -> int:
        """How many tenants have something inside."""
        return len(self._tenants)

    def lane(self, tenant: str, *, bulk: bool = False) -> Lane:
        pair = self._tenants.get(tenant)
        if pair is None:
            pair = Lane(self, tenant, bulk=False), Lane(self, tenant, bulk=True)
            pair[0].other, pair[1].other = pair[1], pair[0]
        return pair[bulk]

    def inside_of(self, tenant: str) -> int:
        """A tenant's items, of both priorities."""
        pair = self._tenants.get(tenant)
        return 0 if pair is None else pair[0].inside + pair[1].inside

    def register(self, lane: Lane) -> None:
        """The first work of a tenant comes in."""
        number = self._numbers.popleft() if self._numbers else len(self._tenants)
        pair = (lane.other, lane) if lane.bulk else (lane, lane.other)
        for bulk, one in enumerate(pair):
            one.number = 2 * number + bulk
        self._tenants[lane.tenant] = pair
        self.is_shared = len(self._tenants) > 1

    def forget(self, lane: Lane) -> None:
        """The last work of a tenant left."""
        del self._tenants[lane.tenant]
        self.is_shared = len(self._tenants) > 1
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
