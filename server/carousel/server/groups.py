"""Groups: what goes to the store of sessions together, and who waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from carousel.errors import CarouselError
from carousel.server import records
from carousel.server.departed import Ended
from carousel.server.records import Columns
from carousel.server.stores import Batch
from carousel.server.work import Answer, Ints

Done = Callable[[CarouselError | None], None]


@dataclass(slots=True)
class Ending:
    """A durable session that is over, and that the store must be told of."""

    ended: Ended
    former: int
    birth: int
    revision: int


@dataclass(slots=True)
class Spill:
    """A parked session that the store does not have as it is: its record.

    With `let_go` memory need not keep it then.
    """

    slot: int
    birth: int
    session_id: str
    handle: int
    revision: int
    step_index: int
    expire_time: float
    data: bytes
    let_go: bool
    former: int = 0  # the handle in the store when it is sent off


@dataclass(slots=True)
class Group:
    """What is on its way to the store."""

    columns: list[Columns]
    spills: list[Spill]
    endings: list[Ending]
    began: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Waiter:
    """Somebody who waits until changes of sessions are in the store: revisions by birth."""

    needs: dict[int, int]
    done: Done


@dataclass(slots=True)
class Held:
    """Outputs of SYNC sessions that leave when their steps are in the store."""

    answer: Answer
    slots: Ints
    births: Ints
    needs: Ints  # durable indexes

    def split(self, chosen: Ints) -> tuple[Held, Held | None]:
        """Those at these places, and the rest, if any."""
        answer, rest = self.answer.split(chosen)
        if rest is None:
            return self, None
        others = np.delete(np.arange(len(self.slots)), chosen)
        return self._part(answer, chosen), self._part(rest, others)

    def _part(self, answer: Answer, places: Ints) -> Held:
        return Held(answer, self.slots[places], self.births[places], self.needs[places])


def batch_of(group: Group) -> Batch:
    """The records of a group."""
    batch = Batch([], [], [], [], [], [])
    ids, formers, handles, revisions, expire_times, data = (
        list[str](),
        list[int](),
        list[int](),
        list[int](),
        list[float](),
        list[bytes](),
    )
    for columns in group.columns:
        ids += columns.ids
        formers += columns.formers
        handles += columns.handles
        revisions += columns.revisions
        expire_times += columns.expire_times
        data += records.encode(columns)
    for spill in group.spills:
        ids.append(spill.session_id)
        formers.append(spill.former)
        handles.append(spill.handle)
        revisions.append(spill.revision)
        expire_times.append(spill.expire_time)
        data.append(spill.data)
    for ending in group.endings:
        ids.append(ending.ended.session_id)
        formers.append(ending.former)
        handles.append(0)
        revisions.append(ending.revision + 1)
        expire_times.append(ending.ended.end_time + 3600.0)
        data.append(records.encode_ended(ending.ended))
    batch = Batch(ids, formers, handles, revisions, expire_times, data)
    return batch
