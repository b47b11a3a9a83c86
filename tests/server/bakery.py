"""The bakery: a scheduler alone, whose items draw tickets as they do at the gatekeeper's."""

from __future__ import annotations

from collections import Counter

import numpy as np

from carousel.server.door import Door
from carousel.server.plan import Chunk, Plan
from carousel.server.scheduler import Scheduler
from carousel.server.work import Answer, Ints, Work


def ignore(answer: Answer) -> None:
    """Answers are not looked at here."""


class Bakery:
    """Queues works and takes turns. A session's handle is the number of its slot."""

    def __init__(self, max_batch: int = 4, sessions: int = 16, **limits: int) -> None:
        self.scheduler = Scheduler((1,), np.float32, max_batch=max_batch, chunk_slice=16, **limits)
        self.door = Door(limit=2**40, tenant_limit=2**40)
        self.tail: Ints = np.zeros(sessions, np.int64)
        self.serving: Ints = np.zeros(sessions, np.int64)
        self.steps: Counter[str] = Counter()  # that each tenant took

    def push(self, slots: list[int], tenant: str = "", *, bulk: bool = False) -> None:
        """Single steps."""
        tickets = []
        for slot in slots:
            tickets.append(self.tail[slot])
            self.tail[slot] += 1
        queued = self._work(slots, [1] * len(slots), tenant, bulk)
        self.scheduler.steps.push(
            [queued],
            np.array([len(slots)]),
            items=np.arange(len(slots)),
            handles=np.array(slots, np.uint64),
            indexes=np.zeros(len(slots), np.int64),
            slots=np.array(slots),
            tickets=np.array(tickets),
            inputs=queued.inputs,
        )

    def push_together(self, groups: dict[str, list[int]]) -> None:
        """Single steps of several tenants, as they come in one iteration of the event loop."""
        works = [self._work(slots, [1] * len(slots), name, False) for name, slots in groups.items()]
        slots = np.array([slot for group in groups.values() for slot in group])
        tickets = self.tail[slots]
        self.tail[slots] += 1
        self.scheduler.steps.push(
            works,
            np.array([len(group) for group in groups.values()]),
            items=np.concatenate([np.arange(len(group)) for group in groups.values()]),
            handles=slots.astype(np.uint64),
            indexes=np.zeros(len(slots), np.int64),
            slots=slots,
            tickets=tickets,
            inputs=np.concatenate([work.inputs for work in works]),
        )

    def push_chunk(self, slot: int, length: int, tenant: str = "", *, bulk: bool = False) -> None:
        queued = self._work([slot], [length], tenant, bulk)
        ticket = int(self.tail[slot])
        self.tail[slot] += 1
        self.scheduler.chunks.append(
            Chunk(queued, 0, slot, slot, ticket, 0, length, 0, self.scheduler.chunk_slice)
        )

    def turn(self) -> list[int]:
        """The slots that rode; finished items are served."""
        plan = self.scheduler.next(self.serving)
        if plan is None:
            return []
        assert np.array_equal(plan.inputs.reshape(len(plan), -1)[:, 0], plan.slots)
        self._count(plan)
        for place, rider in enumerate(plan.slots.tolist()):
            if plan.chunks:
                chunk = plan.chunks[place]
                chunk.done += chunk.riding
                if chunk.done < chunk.length:
                    self.scheduler.chunks.append(chunk)
                    continue
            self.serving[rider] += 1
        return plan.slots.tolist()  # type: ignore[no-any-return]

    def shed(self) -> list[int]:
        """The slots whose items had to go."""
        gone: list[int] = []
        for plan in self.scheduler.shed(self.tail):
            np.subtract.at(self.tail, plan.slots, 1)
            gone += plan.slots.tolist()
        return gone

    def _work(self, slots: list[int], lengths: list[int], tenant: str, bulk: bool) -> Work:
        lane = self.door.lane(tenant, bulk=bulk)
        lane.enter(len(slots), 0.0)
        inputs = np.repeat(np.array(slots, np.float32), lengths)[:, None]
        return Work(slots, [0] * len(slots), inputs, ignore, lane=lane)

    def _count(self, plan: Plan) -> None:
        lengths = [1] * len(plan) if plan.lengths is None else plan.lengths.tolist()
        for place, work in enumerate(plan.works):
            begin, end = plan.bounds[place : place + 2].tolist()
            self.steps[work.lane.tenant] += sum(lengths[begin:end])
