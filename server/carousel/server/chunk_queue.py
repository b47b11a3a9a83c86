"""The queue of chunks: by lane, in order of arrival; what has not finished goes to the back."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterator

import numpy as np

from carousel.server.plan import Chunk, Plan
from carousel.server.work import Ints


class ChunkQueue:
    """Chunks that wait for the turn of their next slice."""

    def __init__(self) -> None:
        self.lanes: dict[int, deque[Chunk]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Chunk]:
        for lane in self.lanes.values():
            yield from lane

    def append(self, chunk: Chunk) -> None:
        lane = chunk.work.lane.number
        if lane not in self.lanes:
            self.lanes[lane] = deque()
        self.lanes[lane].append(chunk)
        self._count += 1

    def remove(self, chunks: Collection[Chunk]) -> None:
        """Take chunks out, if they wait."""
        gone = {id(chunk) for chunk in chunks}
        for lane in {chunk.work.lane.number for chunk in chunks} & self.lanes.keys():
            stay = deque(chunk for chunk in self.lanes[lane] if id(chunk) not in gone)
            self._count -= len(self.lanes[lane]) - len(stay)
            self._put(lane, stay)

    def ride(
        self,
        serving: Ints,
        lanes: list[tuple[int, int]],
        *,
        places: int,
        steps: int,
        longest: int,
    ) -> list[Chunk]:
        """Chunks for a turn, with at most about so many steps in slices of at most `longest`.

        `lanes` are pairs of the round that a lane is in and the lane's number: the lowest goes
        first. They are a heap, and have their new rounds afterwards.
        """
        heapq.heapify(lanes)
        riders: list[Chunk] = []
        blocked: dict[int, list[Chunk]] = {}
        while lanes and len(riders) < places and steps > 0:
            round_, lane = lanes[0]
            chunk = self._next(lane, serving, blocked)
            if chunk is None:
                heapq.heappop(lanes)
                continue
            riders.append(chunk)
            chunk.riding = min(chunk.slice, longest, chunk.length - chunk.done)
            steps -= chunk.riding
            heapq.heapreplace(lanes, (round_ + chunk.riding, lane))
        self._count -= len(riders)
        for lane, chunks in blocked.items():
            self.lanes[lane].extendleft(reversed(chunks))
        for lane in {chunk.work.lane.number for chunk in riders}:
            self._put(lane, self.lanes[lane])
        return riders

    def has_ready(self, lane: int, serving: Ints) -> bool:
        """Whether any chunk of the lane could ride."""
        return any(serving[one.slot] == one.ticket for one in self.lanes.get(lane, ()))

    def newest_bulk(self, limit: int, lane: int | None, tail: Ints) -> list[Chunk]:
        """Up to `limit` bulk chunks, newest first, that have not begun and are last in their lines.

        Of one lane, or of all.
        """
        lanes = [one for one in self.lanes if one & 1] if lane is None else [lane]
        found = [
            chunk
            for number in lanes
            for chunk in self.lanes.get(number, ())
            if not chunk.done and tail[chunk.slot] - 1 == chunk.ticket
        ]
        return heapq.nlargest(limit, found, key=lambda chunk: chunk.work.arrived)

    def _next(self, lane: int, serving: Ints, blocked: dict[int, list[Chunk]]) -> Chunk | None:
        """Take out the first chunk of the lane that can ride; those before it are blocked."""
        waiting = self.lanes.get(lane)
        while waiting:
            chunk = waiting.popleft()
            if serving[chunk.slot] == chunk.ticket:
                return chunk
            blocked.setdefault(lane, []).append(chunk)
        return None

    def _put(self, lane: int, chunks: deque[Chunk]) -> None:
        if chunks:
            self.lanes[lane] = chunks
        else:
            self.lanes.pop(lane, None)


def plan_of(riders: list[Chunk]) -> Plan:
    """A plan of the chunks' next slices."""
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
