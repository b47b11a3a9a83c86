"""Waiting: who waits until something is in the store, and answers that leave only then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from carousel.errors import CarouselError, SessionFenced, StoreUnavailable
from carousel.server.groups import Done, Held, Waiter
from carousel.server.table import FREE, SYNC, SessionTable
from carousel.server.work import Answer, Ints


class Waiting:
    """Those who wait, and what became of it; only the engine's thread may call its methods.

    `failed` hears of outputs that go as errors, one each.
    """

    def __init__(
        self,
        table: SessionTable,
        deliver: Callable[[Answer], None],
        *,
        failed: Callable[[Held, Sequence[CarouselError]], None],
    ) -> None:
        self._table = table
        self._deliver = deliver
        self._failed = failed
        self._waiters: list[Waiter] = []
        self._held: list[Held] = []

    def wait(self, needs: dict[int, int], done: Done) -> None:
        """Call `done` when the store has these revisions, by birth."""
        self._waiters.append(Waiter(needs, done))

    def is_held(self, slots: Ints) -> Ints:
        """Which of these sessions' latest outputs must not leave yet: places."""
        table = self._table
        return np.flatnonzero(
            (table.durability[slots] == SYNC)
            & (table.durable_index[slots] < table.next_index[slots])
        )

    def hold(self, answer: Answer, slots: Ints) -> None:
        """Keep outputs of SYNC sessions back until their steps are in the store."""
        table = self._table
        self._held.append(Held(answer, slots, table.birth[slots], table.next_index[slots].copy()))

    def fail(self, error: StoreUnavailable) -> None:
        """The store does not answer: nobody waits for it longer."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.done(StoreUnavailable(error.message, retry_after=1.0))
        held, self._held = self._held, []
        for one in held:
            why = StoreUnavailable(
                f"{error.message}; the step is committed in memory only: send it again",
                retry_after=1.0,
            )
            self._give_up(one, [why] * len(one.slots))

    def release(self, written: dict[int, int], lost: set[int]) -> bool:
        """The store has these revisions, by birth, and refused others; whether some still wait."""
        if self._waiters:
            self._release_waiters(written, lost)
        if self._held:
            self._release_held()
        return bool(self._waiters or self._held)

    def _release_waiters(self, written: dict[int, int], lost: set[int]) -> None:
        waiting = []
        for waiter in self._waiters:
            if waiter.needs.keys() & lost:
                waiter.done(SessionFenced("another server has a session of this id"))
                continue
            for birth in waiter.needs.keys() & written.keys():
                if written[birth] >= waiter.needs[birth]:
                    del waiter.needs[birth]
            if waiter.needs:
                waiting.append(waiter)
            else:
                waiter.done(None)
        self._waiters = waiting

    def _release_held(self) -> None:
        table, waiting = self._table, []
        for one in map(self._without_ended, self._held):
            if one is None:
                continue
            if (table.durable_index[one.slots] >= one.needs).all():
                one.answer.durable = table.durable_index[one.slots]
                self._deliver(one.answer)
            else:
                waiting.append(one)
        self._held = waiting

    def _without_ended(self, held: Held) -> Held | None:
        """Say of each session that ended, or went on elsewhere, that it did; what is left."""
        table, slots = self._table, held.slots
        is_over = (table.birth[slots] != held.births) | (table.state[slots] == FREE)
        if not is_over.any():
            return held
        over, left = held.split(np.flatnonzero(is_over))
        work = over.answer.work
        handles = [work.handles[item] for item in over.answer.items.tolist()]
        self._give_up(over, [table.why_not(handle, work.lane.tenant) for handle in handles])
        return left

    def _give_up(self, held: Held, errors: Sequence[CarouselError]) -> None:
        self._failed(held, errors)
        self._deliver(held.answer.failed(errors))
