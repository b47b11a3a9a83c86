"""Work: one message of steps in columns, on its way through the engine and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carousel.errors import CarouselError
from carousel.server.door import NOBODY, Lane
from carousel.server.memo import Memo
from carousel.server.notices import Told
from carousel.server.tracing.trace import UNTRACED, Trace
from carousel.v1 import inference_service_pb2 as pb

Ints = npt.NDArray[np.int64]
Handles = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Inputs = npt.NDArray[np.float32 | np.int64]

NEVER = float("inf")


@dataclass(slots=True)
class Answer:
    """What one turn finished of one work: some items' outputs, or their errors.

    `items` are places in the work; `outputs` holds their rows one after the other,
    `lengths` rows each (None: one each). Items of `errors` have no rows. `slots` are the items'
    sessions and `durable` their durable indexes, where they are known. `notices` are what the
    model's health policy has to say, with the items that it is about. `held_since` is when the
    answer was held back until its steps are in the store, on the clock of time.monotonic.
    """

    work: Work
    items: Ints
    lengths: Ints | None
    outputs: Floats  # [rows, O]
    errors: tuple[tuple[int, CarouselError], ...] = ()
    expire_time: float = NEVER
    slots: Ints | None = None
    durable: Ints | None = None
    notices: Told = ()
    held_since: float = 0.0

    def failed(self, errors: Sequence[CarouselError]) -> Answer:
        """The same items, each with its error in place of its outputs."""
        given = tuple(zip(self.items.tolist(), errors, strict=True))
        nothing = self.items[:0]
        told, since = self.notices, self.held_since
        return Answer(
            self.work, nothing, None, self.outputs[:0], given, notices=told, held_since=since
        )

    def split(self, chosen: Ints) -> tuple[Answer, Answer | None]:
        """The items at these places, and an answer with the rest, if any."""
        if len(chosen) == len(self.items):
            return self, None
        assert self.lengths is None, "a chunk is answered alone"
        rest = np.delete(np.arange(len(self.items)), chosen)
        return self._part(chosen), self._part(rest)

    def _part(self, places: Ints) -> Answer:
        slots = None if self.slots is None else self.slots[places]
        durable = None if self.durable is None else self.durable[places]
        outputs, items = self.outputs[places], self.items[places]
        own = set(items.tolist()) if self.notices else set()
        told = tuple(one for one in self.notices if one[0] in own)
        known = (self.expire_time, slots, durable, told, self.held_since)
        return Answer(self.work, items, None, outputs, (), *known)


class Work:
    """Items for sessions of one model version: item i is handles[i], step_indexes[i], lengths[i].

    `inputs` is [steps, D] float32 or [steps] int64, all items one after the other; `lengths`
    None means one step each. `refusals` are items that must not run and why. `durables` are the
    durable indexes that the caller knows, none or one each. `mode` is an OutputMode. `deadline` is
    on the clock of time.monotonic. `lane` says whose work it is and how urgent. `deliver` is called
    in the event loop with every Answer. `memo` is what the session, the only one, remembers of its
    generation once a step is committed. `origin` are labels by which whoever sees a slow step finds
    the request, None where it has no id. `trace` is that of its request, and `waiting_since` when
    it began to wait for its next turn. `left` are the items that wait for parked sessions to be
    queued, None before anybody looked.
    """

    __slots__ = (
        "arrived",
        "cancelled",
        "deadline",
        "deliver",
        "durables",
        "handles",
        "inputs",
        "lane",
        "left",
        "lengths",
        "memo",
        "mode",
        "offsets",
        "origin",
        "refusals",
        "step_indexes",
        "trace",
        "waiting_since",
    )

    def __init__(
        self,
        handles: list[int],
        step_indexes: list[int],
        inputs: Inputs,
        deliver: Callable[[Answer], None],
        *,
        lengths: Ints | None = None,
        deadline: float = NEVER,
        arrived: float = 0.0,
        mode: int = 0,
        lane: Lane = NOBODY,
        refusals: Sequence[tuple[int, CarouselError]] = (),
        durables: Sequence[int] = (),
        memo: Memo | None = None,
        origin: Mapping[str, str] | None = None,
    ) -> None:
        self.handles = handles
        self.step_indexes = step_indexes
        self.inputs = inputs
        self.deliver = deliver
        self.lengths = lengths
        self.offsets = None if lengths is None else np.cumsum(lengths) - lengths
        self.deadline = deadline
        self.arrived = arrived
        self.mode = mode
        self.lane = lane
        self.refusals = refusals
        self.durables = durables
        self.memo = memo
        self.origin = origin
        self.trace: Trace = UNTRACED
        self.waiting_since = arrived
        self.cancelled = False
        self.left: Ints | None = None

    def __len__(self) -> int:
        return len(self.handles)

    @property
    def is_single(self) -> bool:
        """Whether it is one step of one session."""
        return len(self.handles) == 1 and self.lengths is None

    @property
    def last_only(self) -> bool:
        """Whether of an item's outputs at most the last one is asked for."""
        return self.mode in (pb.OUTPUT_MODE_LAST, pb.OUTPUT_MODE_NONE)

    @property
    def outputs_wanted(self) -> int:
        """How many its answers have, if nothing fails."""
        if self.mode == pb.OUTPUT_MODE_NONE:
            return 0
        return len(self) if self.mode == pb.OUTPUT_MODE_LAST else len(self.inputs)
