"""The scheduler: who rides the next turn. It knows queues and order; it computes nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from carousel.server.work import Floats, Handles, Inputs, Ints, Work

SESSION_QUEUE = 1024  # items of one session that may wait


@dataclass(slots=True)
class Chunk:
    """One item of several steps, on its way: it rides in slices and keeps what they gave."""

    work: Work
    item: int
    handle: int
    slot: int
    ticket: int
    start: int  # step index of its first step
    length: int
    offset: int  # of its first step in work.inputs
    slice: int  # steps that it may take in one turn
    done: int = 0
    outputs: Floats | None = None  # [length, O], the first `done` rows filled

    @property
    def riding(self) -> int:
        """Steps of the next slice."""
        return min(self.slice, self.length - self.done)


@dataclass(slots=True)
class Plan:
    """The riders of one turn, in columns. Either single steps, or slices of chunks."""

    works: list[Work]  # the different works, in order
    bounds: Ints  # work i rides at bounds[i] : bounds[i + 1]
    items: Ints  # places in their works
    slots: Ints
    tickets: Ints
    handles: Handles
    indexes: Ints  # step indexes
    inputs: Inputs  # [B, ...], or of slices [B, T, ...]
    lengths: Ints | None = None  # of slices; None for single steps
    chunks: list[Chunk] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.slots)


ITEM = np.dtype(
    [
        ("work", np.int64),
        ("item", np.int64),
        ("slot", np.int64),
        ("ticket", np.int64),
        ("handle", np.uint64),
        ("index", np.int64),
    ]
)


GONE = -1  # the ticket of an item that has left the queue


class StepQueue:
    """Single steps that wait, in columns, in order of arrival; their inputs beside them."""

    def __init__(self, input_shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._items = np.zeros(64, ITEM)
        self._inputs: Inputs = np.zeros((64, *input_shape), dtype)
        self._end = 0  # items in the columns, of which some have gone
        self._count = 0
        self._works: dict[int, Work] = {}
        self._waiting: dict[int, int] = {}  # items of each work
        self._next_work = 0

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
        begin, end = self._end, self._end + len(items)
        while end > len(self._items):
            self._items = np.concatenate([self._items, np.zeros_like(self._items)])
            self._inputs = np.concatenate([self._inputs, np.zeros_like(self._inputs)])
        new = self._items[begin:end]
        numbers = range(self._next_work, self._next_work + len(works))
        new["work"] = np.repeat(np.array(numbers), counts)
        new["item"] = items
        new["slot"] = slots
        new["ticket"] = tickets
        new["handle"] = handles
        new["index"] = indexes
        self._inputs[begin:end] = inputs
        self._works.update(zip(numbers, works, strict=True))
        self._waiting.update(zip(numbers, counts.tolist(), strict=True))
        self._next_work = numbers.stop
        self._end = end
        self._count += len(items)

    def take(self, serving: Ints, limit: int) -> Plan | None:
        """Up to `limit` items whose turn it is in their sessions, oldest first."""
        items = self._items[: self._end]
        chosen = (serving[items["slot"]] == items["ticket"]).nonzero()[0][:limit]
        return self._take(chosen) if len(chosen) else None

    def take_fenced(self, handle: Handles) -> Plan | None:
        """Every item whose handle is not the one that its slot has now."""
        items = self._items[: self._end]
        fenced = (handle[items["slot"]] != items["handle"]) & (items["ticket"] != GONE)
        chosen = fenced.nonzero()[0]
        return self._take(chosen) if len(chosen) else None

    def _take(self, chosen: Ints) -> Plan:
        items, inputs = self._items[: self._end], self._inputs[: self._end]
        taken, inputs_taken = items[chosen], inputs[chosen]
        self._count -= len(chosen)
        if not self._count:
            self._end = 0
        else:
            items["ticket"][chosen] = GONE
            if self._count <= self._end // 2:  # moved together seldom: a long queue is not cheap
                stay = (items["ticket"] != GONE).nonzero()[0]
                self._items[: self._count] = items[stay]
                self._inputs[: self._count] = inputs[stay]
                self._end = self._count
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


class Scheduler:
    """The queues of one model version. Single steps and slices of chunks take turns.

    `max_batch` riders a turn; a slice has at most `chunk_slice` steps, so that a chunk of any
    length holds a single step up for no longer than about one more turn.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        max_batch: int,
        chunk_slice: int,
    ) -> None:
        self.max_batch = max_batch
        self.chunk_slice = chunk_slice
        self.steps = StepQueue(input_shape, dtype)
        self.chunks: deque[Chunk] = deque()
        self._chunks_next = False

    def __len__(self) -> int:
        return len(self.steps) + len(self.chunks)

    def next(self, serving: Ints) -> Plan | None:
        """The riders of the next turn, or None when nobody can ride."""
        order = (
            (self._slices, self._singles) if self._chunks_next else (self._singles, self._slices)
        )
        self._chunks_next = not self._chunks_next
        return order[0](serving) or order[1](serving)

    def take_fenced(self, handle: Handles) -> list[Plan]:
        """Take out everything whose handle is not the one that its slot has now."""
        single = self.steps.take_fenced(handle) if len(self.steps) else None
        plans = [] if single is None else [single]
        chunks = [chunk for chunk in self.chunks if int(handle[chunk.slot]) != chunk.handle]
        if chunks:
            self.drop(chunks)
            plans.append(self._plan(chunks))
        return plans

    def drop(self, chunks: Sequence[Chunk]) -> None:
        """Take chunks out, wherever they wait."""
        gone = {id(chunk) for chunk in chunks}
        self.chunks = deque(chunk for chunk in self.chunks if id(chunk) not in gone)

    def _singles(self, serving: Ints) -> Plan | None:
        return self.steps.take(serving, self.max_batch) if len(self.steps) else None

    def _slices(self, serving: Ints) -> Plan | None:
        """Slices of the chunks in front; those that are not finished go to the back."""
        if not self.chunks:
            return None
        # While single steps wait, a turn of slices takes no longer than one of single steps.
        budget = self.max_batch * (1 if len(self.steps) else 8)
        riders: list[Chunk] = []
        waiting: deque[Chunk] = deque()
        while self.chunks and len(riders) < self.max_batch and budget > 0:
            chunk = self.chunks.popleft()
            if serving[chunk.slot] == chunk.ticket:
                riders.append(chunk)
                budget -= chunk.riding
            else:
                waiting.append(chunk)
        self.chunks.extendleft(reversed(waiting))
        return self._plan(riders) if riders else None

    def _plan(self, riders: list[Chunk]) -> Plan:
        lengths = np.array([c.riding for c in riders], np.int64)
        first = riders[0].work.inputs
        inputs = np.zeros((len(riders), int(lengths.max()), *first.shape[1:]), first.dtype)
        for place, (chunk, length) in enumerate(zip(riders, lengths.tolist(), strict=True)):
            begin = chunk.offset + chunk.done
            inputs[place, :length] = chunk.work.inputs[begin : begin + length]
        return Plan(
            works=[chunk.work for chunk in riders],
            bounds=np.arange(len(riders) + 1),
            items=np.array([chunk.item for chunk in riders]),
            slots=np.array([chunk.slot for chunk in riders]),
            tickets=np.array([chunk.ticket for chunk in riders]),
            handles=np.array([chunk.handle for chunk in riders], np.uint64),
            indexes=np.array([chunk.start + chunk.done for chunk in riders]),
            inputs=inputs,
            lengths=lengths,
            chunks=riders,
        )
