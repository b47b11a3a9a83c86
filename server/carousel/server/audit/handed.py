"""What the engine hands over to the writer, and the entries that come of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

import numpy as np

from carousel.server.audit.entry import ADJUSTED, STATE, STEPS, Entry
from carousel.server.audit.head import Head, answers
from carousel.server.audit.log import Log
from carousel.server.work import Floats, Inputs, Ints

# Turns whose steps can be joined: features of an input, outputs, whether bit-exact.
Shape = tuple[int, int, bool]
Adjusted = tuple[int, int, Floats]  # the number of a log, a step index, the state before that step

TURN = 1 << 20  # moments; each step of a slice has one, and what follows it the next


@dataclass(slots=True)
class Turn:
    """What audited riders of one turn were fed and answered; `numbers` are of their logs.

    `due` are the places of those whose state [n, width] stands in the log again, after the turn.
    `adjusted` are states that something else than the steps led to, on the way.
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
    adjusted: Sequence[Adjusted] = ()

    @property
    def bytes(self) -> int:
        return self.inputs.nbytes + self.outputs.nbytes + self.states.nbytes

    def by_step(self) -> tuple[Ints, Ints, Ints, Inputs, Floats]:
        """Number, place in the slice, index, input and output of every step, rider after rider."""
        if self.lengths is None:
            return self.numbers, np.zeros_like(self.first), self.first, self.inputs, self.outputs
        steps = np.arange(self.inputs.shape[1])
        real = steps < self.lengths[:, None]  # [B, T]
        indexes = self.first[:, None] + steps
        numbers, places = np.repeat(self.numbers, self.lengths), np.nonzero(real)[1]
        return numbers, places, indexes[real], self.inputs[real], self.outputs[real]

    def logged_states(self) -> Iterator[tuple[int, int, Entry]]:
        """Number, place of the step before, and entry of each state."""
        first = dict(zip(self.numbers.tolist(), self.first.tolist(), strict=True))
        for number, index, row in self.adjusted:
            entry = Entry(STATE, index, self.time, row.tobytes(), cause=ADJUSTED)
            yield number, index - 1 - first[number], entry
        for place, row in zip(self.due.tolist(), self.states, strict=True):
            length = 1 if self.lengths is None else int(self.lengths[place])
            index = int(self.first[place]) + length
            yield (
                int(self.numbers[place]),
                length - 1,
                Entry(STATE, index, self.time, row.tobytes()),
            )


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
Placed = tuple[int, Entry | Event]  # and its moment


def by_log(items: Sequence[Handed]) -> dict[int, list[Placed]]:
    """What each log gets, in order; steps that nothing stands between are one entry."""
    found: dict[int, list[Placed]] = defaultdict(list)
    turns: dict[Shape, list[tuple[int, Turn]]] = defaultdict(list)
    for number, item in enumerate(items):
        moment = number * TURN
        if isinstance(item, Event):
            found[item.log.number].append((moment, item))
            continue
        turns[item.shape].append((moment, item))
        for log, place, state in item.logged_states():
            found[log].append((moment + 2 * place + 1, state))
    for (_, _, exact), alike in turns.items():
        for log, steps in list(_runs(alike, found, exact=exact)):
            found[log].append(steps)
    for parts in found.values():
        if len(parts) > 1:
            parts.sort(key=itemgetter(0))
    return found


def _runs(
    turns: list[tuple[int, Turn]], others: dict[int, list[Placed]], *, exact: bool
) -> Iterator[tuple[int, tuple[int, Entry]]]:
    """Runs of steps: the log's number, and the entry with the moment of its first step."""
    columns = [turn.by_step() for _, turn in turns]
    numbers, places, indexes, inputs, outputs = map(np.concatenate, zip(*columns, strict=True))
    counts = [len(column[0]) for column in columns]
    moments = np.repeat([moment for moment, _ in turns], counts) + 2 * places
    times = np.repeat([turn.time for _, turn in turns], counts)
    order = np.argsort(numbers, kind="stable")
    numbers, indexes, moments, times = (c[order] for c in (numbers, indexes, moments, times))
    if inputs.dtype == np.int64:
        inputs = inputs.astype("<i4")
    fed, said = inputs[order].tobytes(), outputs[order].tobytes()
    in_bytes, out_bytes = len(fed) // len(order), len(said) // len(order)
    edges = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1))
    logs = numbers[edges[:-1]].tolist()
    for log, begin, end in zip(logs, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        cuts = [begin, end]
        if log in others:
            between = [moment for moment, _ in others[log]]
            cuts += (begin + np.searchsorted(moments[begin:end], between)).tolist()
        for a, b in pairwise(sorted(set(cuts))):
            payload = fed[a * in_bytes : b * in_bytes] + answers(
                said[a * out_bytes : b * out_bytes], b - a, exact=exact
            )
            entry = Entry(STEPS, int(indexes[a]), float(times[a]), payload, b - a)
            yield log, (int(moments[a]), entry)
