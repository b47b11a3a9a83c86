"""Held work, and the queue in which it waits for a turn of its own. It computes nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carousel.errors import CarouselError
from carousel.server.notices import Notices
from carousel.server.tracing.trace import UNTRACED, Trace
from carousel.server.work import Floats, Inputs, Ints


class HeldWork:
    """One message: item i takes lengths[i] steps from the state rows[i].

    `indexes` are those of the items' first steps; None: 0 each. `inputs` is [steps, D] float32 or
    [steps] int64, all items one after the other, as are the `outputs` [steps, O]; with `last_only`
    these are [N, O], of the last step of each item. Items of `errors` are not run. The engine's
    thread alone touches a work from its push until `finished` is set. `deadline` is on the clock of
    time.monotonic. `origin`, `trace` and `waiting_since` are as in Work.
    """

    def __init__(
        self,
        rows: Floats,
        inputs: Inputs,
        lengths: Ints,
        *,
        output_size: int,
        last_only: bool,
        deadline: float,
        arrived: float,
        indexes: Ints | None = None,
        errors: Mapping[int, CarouselError] | None = None,
        origin: Mapping[str, str] | None = None,
    ) -> None:
        self.rows = rows  # [N, width], moved on in place
        self.indexes: Ints = np.zeros(len(lengths), np.int64) if indexes is None else indexes
        self.inputs = inputs
        self.lengths = lengths
        self.offsets = np.cumsum(lengths) - lengths
        self.done: Ints = np.zeros(len(lengths), np.int64)  # steps taken
        self.last_only = last_only
        places = len(lengths) if last_only else len(inputs)
        self.outputs: Floats = np.zeros((places, output_size), np.float32)
        self.errors = dict(errors or {})
        self.notices = Notices()  # by item
        self.open: npt.NDArray[np.bool_] = np.ones(len(lengths), np.bool_)
        self.open[list(self.errors)] = False
        self.deadline = deadline
        self.arrived = arrived
        self.origin = origin
        self.trace: Trace = UNTRACED
        self.waiting_since = arrived
        self.cancelled = False
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, items: Ints, error: CarouselError) -> None:
        """End those of the items that have no answer yet."""
        left = items[self.open[items]]
        self.errors.update(dict.fromkeys(left.tolist(), error))
        self.open[left] = False


@dataclass(slots=True, frozen=True)
class Group:
    """Items of one work that wait or ride together."""

    work: HeldWork
    items: Ints


class HeldQueue:
    """The held states of one model version. Single steps and slices of chunks take turns."""

    def __init__(self, *, chunk_slice: int) -> None:
        self.chunk_slice = chunk_slice
        self._singles: deque[Group] = deque()
        self._chunks: deque[Group] = deque()
        self._count = 0
        self._chunks_next = False

    def __len__(self) -> int:
        return self._count

    def push(self, work: HeldWork) -> None:
        """Queue the open items of a work."""
        items = work.open.nonzero()[0]
        single = work.lengths[items] == 1
        self._put(self._singles, Group(work, items[single]))
        self._put(self._chunks, Group(work, items[~single]))

    def put_back(self, group: Group) -> None:
        """Queue chunks that go on, behind all others."""
        self._put(self._chunks, group)

    def next(self, *, in_a_hurry: bool, limit: int) -> tuple[Sequence[Group], bool]:
        """Who rides the next turn, at most `limit`, and whether in slices; nobody if nobody waits.

        `in_a_hurry`: a turn of slices takes no longer than one of single steps.
        """
        slices = self._chunks_next if self._chunks and self._singles else bool(self._chunks)
        self._chunks_next = not slices
        if not slices:
            return self._take(self._singles, limit), False
        steps = limit * (1 if in_a_hurry or self._singles else 8)
        riders = min(limit, max(1, steps // self.chunk_slice))
        return self._take(self._chunks, riders), True

    def clear(self) -> list[Group]:
        """Take out everything."""
        groups = [*self._singles, *self._chunks]
        self._singles.clear()
        self._chunks.clear()
        self._count = 0
        return groups

    def _put(self, queue: deque[Group], group: Group) -> None:
        if len(group.items):
            queue.append(group)
            self._count += len(group.items)

    def _take(self, queue: deque[Group], limit: int) -> list[Group]:
        groups: list[Group] = []
        while queue and limit:
            group = queue.popleft()
            if len(group.items) > limit:
                queue.appendleft(Group(group.work, group.items[limit:]))
                group = Group(group.work, group.items[:limit])
            limit -= len(group.items)
            self._count -= len(group.items)
            groups.append(group)
        return groups
