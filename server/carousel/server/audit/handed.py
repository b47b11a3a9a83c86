"""What the engine hands over to the writer, and the entries that come of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

import numpy as np

from carousel.server.audit.entry import STATE, STEPS, Entry
from carousel.server.audit.head import Head, answers
from carousel.server.audit.log import Log
from carousel.server.work import Floats, Inputs, Ints

# Turns whose steps can be joined: features of an input, outputs, whether bit-exact.
Shape = tuple[int, int, bool]


@dataclass(slots=True)
class Turn:
    """What audited riders of one turn were fed and answered; `numbers` are of their logs.

    `due` are the places of those whose state [n, width] stands in the log again, after the turn.
    """

    shape: Shape
    numbers: Ints
    first: Ints  # step indexes
    lengths: Ints | None  # of slices; None: single steps
    inputs: Inputs  # [B, ...], or of slices [B, T, ...]
    outputs: Floats  # [B, O], or of slices [B, T, O]
    time: float
    due: Ints
    states: Floats

    @property
    def bytes(self) -> int:
        return self.inputs.nbytes + self.outputs.nbytes + self.states.nbytes

    def by_step(self) -> tuple[Ints, Ints, Inputs, Floats]:
        """Number, step index, input and output of every step, rider after rider."""
        if self.lengths is None:
            return self.numbers, self.first, self.inputs, self.outputs
        steps = np.arange(self.inputs.shape[1])
        real = steps < self.lengths[:, None]  # [B, T]
        indexes = self.first[:, None] + steps
        numbers = np.repeat(self.numbers, self.lengths)
        return numbers, indexes[real], self.inputs[real], self.outputs[real]


@dataclass(slots=True)
class Event:
    """Something else that belongs into one log: a head, a state, the end."""

    log: Log
    head: Head | None = None
    entry: Entry | None = None
    leaves: bool = False  # the log is over on this server
    discards: bool = False  # and shall be forgotten

    @property
    def bytes(self) -> int:
        return 0 if self.entry is None else len(self.entry.payload)


Handed = Turn | Event
Placed = tuple[int, Entry | Event]  # and when it was handed over


def by_log(items: Sequence[Handed]) -> dict[int, list[Placed]]:
    """What each log gets, in order; steps that nothing stands between are one entry."""
    found: dict[int, list[Placed]] = defaultdict(list)
    turns: dict[Shape, list[tuple[int, Turn]]] = defaultdict(list)
    for moment, item in enumerate(items):
        if isinstance(item, Event):
            found[item.log.number].append((2 * moment, item))
            continue
        turns[item.shape].append((2 * moment, item))
        for place, row in zip(item.due.tolist(), item.states, strict=True):
            length = 1 if item.lengths is None else int(item.lengths[place])
            state = Entry(STATE, int(item.first[place]) + length, item.time, row.tobytes())
            found[int(item.numbers[place])].append((2 * moment + 1, state))
    for (_, _, exact), alike in turns.items():
        for number, steps in list(_runs(alike, found, exact=exact)):
            found[number].append(steps)
    for parts in found.values():
        if len(parts) > 1:
            parts.sort(key=itemgetter(0))
    return found


def _runs(
    turns: list[tuple[int, Turn]], others: dict[int, list[Placed]], *, exact: bool
) -> Iterator[tuple[int, tuple[int, Entry]]]:
    """Runs of steps: the log's number, and the entry with the moment of its first step."""
    columns = [turn.by_step() for _, turn in turns]
    numbers, indexes, inputs, outputs = (np.concatenate(c) for c in zip(*columns, strict=True))
    counts = [len(column[0]) for column in columns]
    moments = np.repeat([moment for moment, _ in turns], counts)
    times = np.repeat([turn.time for _, turn in turns], counts)
    order = np.argsort(numbers, kind="stable")
    numbers, indexes, moments, times = (c[order] for c in (numbers, indexes, moments, times))
    if inputs.dtype == np.int64:
        inputs = inputs.astype("<i4")
    fed, said = inputs[order].tobytes(), outputs[order].tobytes()
    in_bytes, out_bytes = len(fed) // len(order), len(said) // len(order)
    edges = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1))
    logs = numbers[edges[:-1]].tolist()
    for number, begin, end in zip(logs, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        cuts = [begin, end]
        if number in others:
            between = [moment for moment, _ in others[number]]
            cuts += (begin + np.searchsorted(moments[begin:end], between)).tolist()
        for a, b in pairwise(sorted(set(cuts))):
            payload = fed[a * in_bytes : b * in_bytes] + answers(
                said[a * out_bytes : b * out_bytes], b - a, exact=exact
            )
            entry = Entry(STEPS, int(indexes[a]), float(times[a]), payload, b - a)
            yield number, (int(moments[a]), entry)
