"""The watch: what the latest steps of single sessions brought, kept for whoever looks at them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from carousel.errors import WatchCapacity
from carousel.server.arena import Rows
from carousel.server.loaded import LoadedVersion
from carousel.server.repeats import reply_of
from carousel.server.ride import Ride, some
from carousel.server.scheduler import Plan
from carousel.server.table import SessionTable
from carousel.server.work import Floats, Inputs

WATCH_SECONDS = 60.0
MOST_WATCHED = 16
MOST_STEPS = 256  # that can be shown; one more is kept, for its output
MOST_BYTES = 2**24  # of one session
LONGEST_PART = 256  # steps of one slice; longer ones would have to be run again as a whole


@dataclass(slots=True, frozen=True)
class Part:
    """Consecutive steps that nothing came between."""

    first: int  # step index
    inputs: Inputs  # [T, ...]
    state: torch.Tensor  # [width], before

    @property
    def end(self) -> int:
        return self.first + len(self.inputs)

    @property
    def bytes(self) -> int:
        return self.inputs.nbytes + self.state.nbytes


@dataclass(slots=True)
class Watch:
    """One session: steps that follow one another, and the state that they led to."""

    birth: int  # of the session, as in the table
    until: float  # seconds since the epoch
    version: LoadedVersion | None = None
    parts: deque[Part] = field(default_factory=deque)
    before: Floats | None = None  # the output [O] before the first part, where it is known
    after: torch.Tensor | None = None  # [width]
    bytes: int = 0

    def goes_on(self, version: LoadedVersion, index: int, state: torch.Tensor) -> bool:
        """Whether a session that stands here has taken these steps, and nothing else since."""
        return (
            self.version is version
            and self.after is not None
            and self.parts[-1].end == index
            and torch.equal(self.after, state)
        )

    def begin(self, version: LoadedVersion, before: Floats | None) -> None:
        """Forget what was."""
        self.version, self.before, self.after, self.bytes = version, before, None, 0
        self.parts.clear()

    def add(self, parts: list[Part], after: torch.Tensor) -> None:
        """Take steps that lead to the state `after`, and let go of what is too old."""
        self.parts += parts
        self.after = after
        self.bytes += sum(part.bytes for part in parts)
        while len(self.parts) > 1 and self._has_more_than_needed():
            self.bytes -= self.parts.popleft().bytes
            self.before = None

    def _has_more_than_needed(self) -> bool:
        enough = self.parts[-1].end - self.parts[1].first > MOST_STEPS
        return enough or self.bytes > MOST_BYTES


class Watches:
    """The sessions that somebody looks at, by their slots; for the engine's thread."""

    def __init__(self, table: SessionTable, clock: Callable[[], float]) -> None:
        self._table = table
        self._clock = clock
        self._watches: dict[int, Watch] = {}

    def watch(self, slot: int) -> Watch:
        """Watch a session from now on, or for longer. Raises WatchCapacity."""
        self.sweep()
        until = self._clock() + WATCH_SECONDS
        watch = self._watches.get(slot)
        if watch is not None:
            watch.until = until
            return watch
        if len(self._watches) >= MOST_WATCHED:
            first = min(watch.until for watch in self._watches.values())
            raise WatchCapacity(
                f"at most {MOST_WATCHED} sessions are watched at a time, each for "
                f"{WATCH_SECONDS:g} s after it was last asked for; 0 steps show the state alone",
                field="steps",
                retry_after=max(first - self._clock(), 0.0),
            )
        watch = self._watches[slot] = Watch(int(self._table.birth[slot]), until)
        return watch

    def sweep(self) -> None:
        """Let go of sessions that have ended, or that nobody asked for lately."""
        now = self._clock()
        for slot, watch in tuple(self._watches.items()):
            if watch.until <= now or watch.birth != self._table.birth[slot]:
                del self._watches[slot]

    def keep(self, version: LoadedVersion, plan: Plan, ride: Ride) -> None:
        """Note what watched sessions bring: to be called once a turn, before it is committed."""
        if not self._watches:
            return
        for rider in np.flatnonzero(np.isin(ride.slots, list(self._watches))).tolist():
            slot = int(ride.slots[rider])
            watch, parts = self._watches[slot], list(_parts(plan, ride, rider))
            if watch.birth != self._table.birth[slot]:
                continue
            if not watch.goes_on(version, parts[0].first, parts[0].state):
                reply = reply_of(self._table, version, slot)
                watch.begin(version, reply[-1].copy() if len(reply) else None)
            if max(len(part.inputs) for part in parts) > LONGEST_PART:
                watch.begin(version, None)
            else:
                watch.add(parts, _row(ride.new, rider))


def _row(rows: Rows, rider: int) -> torch.Tensor:
    """A copy of one rider's, [width]."""
    return torch.as_tensor(some(rows, np.array([rider])))[0]


def _parts(plan: Plan, ride: Ride, rider: int) -> Iterator[Part]:
    """What one rider brought, cut where a health policy set its state."""
    place, slot = int(ride.places[rider]), int(ride.slots[rider])
    first, inputs = int(plan.indexes[place]), plan.inputs[place : place + 1]
    if plan.lengths is not None:
        inputs = inputs[0, : int(plan.lengths[place])]
    states = {first: _row(ride.state, rider)}
    for touch in ride.touches:
        after = touch.step_index + 1
        if touch.slot == slot and touch.row is not None and after < first + len(inputs):
            states[after] = torch.from_numpy(touch.row)
    ends = [*list(states)[1:], first + len(inputs)]
    for (begin, state), end in zip(states.items(), ends, strict=True):
        yield Part(begin, inputs[begin - first : end - first].copy(), state)
