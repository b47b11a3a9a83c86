"""The queue of single steps: columns in order of arrival, and their inputs beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from carousel.server.plan import Plan
from carousel.server.work import Handles, Inputs, Ints, Work

ITEM = np.dtype(
    [
        ("work", np.int64),
        ("item", np.int32),
        ("lane", np.int32),
        ("slot", np.int64),
        ("ticket", np.int64),
        ("handle", np.uint64),
        ("index", np.int64),
    ]
)


GONE = -1  # the ticket of an item that has left the queue


class StepQueue:
    """Single steps that wait. `lanes` has how many items of each lane do.

    What comes into an empty queue mostly leaves it as a whole, in the next turn: it stays in the
    columns that it came in, until anything else is asked of it.
    """

    def __init__(self, input_shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.lanes: dict[int, int] = {}
        self._items = np.zeros(64, ITEM)
        self._inputs: Inputs = np.zeros((64, *input_shape), dtype)
        self._begin = self._end = 0  # where the items are; some in between have gone
        self._count = 0
        self._works: dict[int, Work] = {}
        self._waiting: dict[int, int] = {}  # items of each work
        self._next_work = 0
        self._whole: Plan | None = None

    def __len__(self) -> int:
        return self._count

    def push(
        self,
        works: Sequence[Work],
        counts: Ints,
        *,
        items: Ints,
        handles: Handles,
        indexes: Ints,
        slots: Ints,
        tickets: Ints,
        inputs: Inputs,
    ) -> None:
        """Queue items of works, counts[i] of works[i], in columns."""
        self._enter(works, counts.tolist())
        if not self._count:
            bounds = np.empty(len(works) + 1, np.int64)
            bounds[0] = 0
            counts.cumsum(out=bounds[1:])
            self._whole = Plan(list(works), bounds, items, slots, tickets, handles, indexes, inputs)
            self._count = len(items)
            return
        self._spread()
        self._append(
            works,
            counts,
            items=items,
            handles=handles,
            indexes=indexes,
            slots=slots,
            tickets=tickets,
            lanes=_lanes_of(works, counts),
            inputs=inputs,
        )
        self._count += len(items)

    def take_whole(self, serving: Ints, limit: int) -> Plan | None:
        """All that waits, if it came together, everybody's turn has come, and it is not more."""
        plan = self._whole
        if plan is None or len(plan) > limit:
            return None
        if np.count_nonzero(serving[plan.slots] == plan.tickets) < len(plan):
            return None
        self._whole, self._count = None, 0
        self.lanes.clear()
        return plan

    def _spread(self) -> None:
        """Put what came as a whole where items are looked at one by one."""
        if (plan := self._whole) is not None:
            self._whole = None
            counts = np.diff(plan.bounds)
            self._append(
                plan.works,
                counts,
                items=plan.items,
                handles=plan.handles,
                indexes=plan.indexes,
                slots=plan.slots,
                tickets=plan.tickets,
                lanes=_lanes_of(plan.works, counts),
                inputs=plan.inputs,
            )

    def _append(
        self,
        works: Sequence[Work],
        counts: Ints,
        *,
        items: Ints,
        handles: Handles,
        indexes: Ints,
        slots: Ints,
        tickets: Ints,
        lanes: Ints | int,
        inputs: Inputs,
    ) -> None:
        begin, end = self._end, self._end + len(items)
        while end > len(self._items):
            self._items = np.concatenate([self._items, np.zeros_like(self._items)])
            self._inputs = np.concatenate([self._inputs, np.zeros_like(self._inputs)])
        new = self._items[begin:end]
        numbers = range(self._next_work, self._next_work + len(works))
        each = counts.tolist()
        new["work"] = np.repeat(np.array(numbers), counts)
        new["item"] = items
        new["lane"] = lanes
        new["slot"] = slots
        new["ticket"] = tickets
        new["handle"] = handles
        new["index"] = indexes
        self._inputs[begin:end] = inputs
        self._works.update(zip(numbers, works, strict=True))
        self._waiting.update(zip(numbers, each, strict=True))
        self._next_work = numbers.stop
        self._end = end

    def ready(self, serving: Ints, enough: int) -> Ints:
        """Places of the items whose turn it is in their sessions, oldest first.

        Of a lane with more than `enough`, not all have to be among them. Where the queue is long,
        its two ends are looked at first: in the front are the oldest of those who always wait, and
        in the back all the work of those who seldom do.
        """
        self._spread()
        begin, end, window = self._begin, self._end, 4 * enough
        if end - begin <= 4 * window:
            return self._find(serving, begin, end)
        front = self._find(serving, begin, begin + window)
        if len(self.lanes) == 1:
            return front if len(front) >= enough else self._find(serving, begin, end)
        both = np.concatenate([front, self._find(serving, end - window, end)])
        at_front, at_both = (np.bincount(self.lanes_at(places)) for places in (front, both))
        for lane, waiting in self.lanes.items():
            if _count(at_front, lane) < enough and _count(at_both, lane) < waiting:
                return self._find(serving, begin, end)
        return both

    def _find(self, serving: Ints, begin: int, end: int) -> Ints:
        items = self._items[begin:end]
        found: Ints = (serving[items["slot"]] == items["ticket"]).nonzero()[0]
        return found + begin if begin else found

    def lanes_at(self, places: Ints) -> Ints:
        lanes: Ints = self._items["lane"][places]
        return lanes

    def take(self, places: Ints) -> Plan:
        """Take out the items at these places, which ascend."""
        items, inputs = self._items[: self._end], self._inputs[: self._end]
        taken, inputs_taken = items[places], inputs[places]
        self._leave(taken["lane"])
        self._count -= len(places)
        if not self._count:
            self._begin = self._end = 0
        else:
            items["ticket"][places] = GONE
            front = items["ticket"][self._begin : self._begin + 2 * len(places)] == GONE
            self._begin += len(front) if front.all() else int(front.argmin())
            if self._count <= self._end // 2:  # moved together seldom: a long queue is not cheap
                stay = (items["ticket"] != GONE).nonzero()[0]
                self._items[: self._count] = items[stay]
                self._inputs[: self._count] = inputs[stay]
                self._begin, self._end = 0, self._count
        works, bounds = self._segments(taken["work"])
        return Plan(
            works=works,
            bounds=bounds,
            items=taken["item"],
            slots=taken["slot"],
            tickets=taken["ticket"],
            handles=taken["handle"],
            indexes=taken["index"],
            inputs=inputs_taken,
        )

    def take_fenced(self, handle: Handles) -> Plan | None:
        """Every item whose handle is not the one that its slot has now."""
        self._spread()
        items = self._items[: self._end]
        fenced = (handle[items["slot"]] != items["handle"]) & (items["ticket"] != GONE)
        places = fenced.nonzero()[0]
        return self.take(places) if len(places) else None

    def take_newest_bulk(self, limit: int, lane: int | None, tail: Ints) -> Plan | None:
        """Up to `limit` bulk items, newest first, that are last in their sessions' lines.

        Of one lane, or of all. Whoever leaves from the middle of a line would leave a ticket that
        is never served. Only the newest are looked at: a full queue is long.
        """
        self._spread()
        items = self._items[: self._end]
        wanted = items["lane"] & 1 if lane is None else items["lane"] == lane
        places = wanted.nonzero()[0][-(4 * limit + 1024) :]
        places = places[items["ticket"][places] != GONE][::-1]
        slots = items["slot"][places]
        is_last = tail[slots] - 1 - items["ticket"][places] == ranks(slots)
        places = np.sort(places[is_last][:limit])
        return self.take(places) if len(places) else None

    def _enter(self, works: Sequence[Work], counts: list[int]) -> None:
        if len({work.lane for work in works}) == 1:
            works, counts = works[:1], [sum(counts)]
        for work, count in zip(works, counts, strict=True):
            number = work.lane.number
            self.lanes[number] = self.lanes.get(number, 0) + count

    def _leave(self, lanes: Ints) -> None:
        if len(self.lanes) == 1:
            numbers, counts = list(self.lanes), [len(lanes)]
        else:
            found = np.bincount(lanes)
            numbers = found.nonzero()[0].tolist()
            counts = found[numbers].tolist()
        for number, count in zip(numbers, counts, strict=True):
            self.lanes[number] -= count
            if not self.lanes[number]:
                del self.lanes[number]

    def _segments(self, numbers: Ints) -> tuple[list[Work], Ints]:
        """The works of the riders and where each begins and ends."""
        edges = (numbers[1:] != numbers[:-1]).nonzero()[0] + 1
        bounds = np.empty(len(edges) + 2, np.int64)
        bounds[0], bounds[1:-1], bounds[-1] = 0, edges, len(numbers)
        works = []
        riders = (bounds[1:] - bounds[:-1]).tolist()
        for number, count in zip(numbers[bounds[:-1]].tolist(), riders, strict=True):
            works.append(self._works[number])
            self._waiting[number] -= count
            if not self._waiting[number]:
                del self._works[number], self._waiting[number]
        return works, bounds


def _lanes_of(works: Sequence[Work], counts: Ints) -> Ints | int:
    """The lane of each item, or that of all."""
    numbers = [work.lane.number for work in works]
    return numbers[0] if len(set(numbers)) == 1 else np.repeat(np.array(numbers), counts)


def _count(counts: Ints, lane: int) -> int:
    return int(counts[lane]) if lane < len(counts) else 0


def ranks(slots: Ints) -> Ints:
    """How many entries before it name the same slot, for each entry."""
    order = np.argsort(slots, kind="stable")
    first = np.ones(len(slots), np.bool_)
    first[1:] = slots[order[1:]] != slots[order[:-1]]
    begins = np.flatnonzero(first)
    found = np.empty(len(slots), np.int64)
    found[order] = np.arange(len(slots)) - np.repeat(begins, np.diff(begins, append=len(slots)))
    return found
