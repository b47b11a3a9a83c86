"""The outbox: answers on their way from the engine to the event loop, one callback a turn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from carousel.server.table import SessionTable
from carousel.server.work import Answer

log = logging.getLogger("carousel.engine")


class Outbox:
    """Of the engine's thread. `hold_back` gives what of an answer may leave at once, or None."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        table: SessionTable,
        hold_back: Callable[[Answer], Answer | None],
    ) -> None:
        self.answers: list[Answer] = []
        self._loop = loop
        self._table = table
        self._hold_back = hold_back

    def add(self, answers: Iterable[Answer]) -> None:
        """Let answers go as they are."""
        self.answers += answers

    def give(self, answer: Answer) -> None:
        """Let an answer go, or hold back what is not in the store yet and must be."""
        slots = answer.slots
        if slots is not None and len(self._table.notices):
            answer.notices = self._table.notices.of(answer.items, slots)
        if slots is not None and self._table.durables:
            answer.durable = self._table.durable_index[slots]
            rest = self._hold_back(answer)
            if rest is None:
                return
            answer = rest
        self.answers.append(answer)

    def release(self, answer: Answer) -> None:
        """Let an answer go that was held back for the store."""
        answer.work.trace.stored(answer.held_since, failed=bool(answer.errors))
        self.answers.append(answer)

    def deliver(self) -> None:
        """Hand all answers to the event loop in one callback."""
        if self.answers:
            answers, self.answers = self.answers, []
            self._loop.call_soon_threadsafe(hand_out, answers)

    def hand_out_here(self) -> None:
        """The same, for whoever is in the event loop's thread."""
        answers, self.answers = self.answers, []
        hand_out(answers)


def hand_out(answers: list[Answer]) -> None:
    for answer in answers:
        try:
            answer.work.lane.leave(len(answer.items), len(answer.errors))
            answer.work.deliver(answer)
        except Exception:  # a bug in one message must not take the others' answers along
            log.exception("an answer could not be handed out")
