"""A plan: the riders of one turn, in columns."""

from __future__ import annotations

from dataclasses import dataclass, field

from carousel.server.work import Floats, Handles, Inputs, Ints, Work


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
    # [length, O], the first `done` rows filled; [1, O], the last one, where no others are wanted.
    outputs: Floats | None = None
    riding: int = 1  # steps of the slice that rides


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
