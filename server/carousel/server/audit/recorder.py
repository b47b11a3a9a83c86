"""The recorder: hands over to the writer what audited sessions do, for the engine's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from carousel.server.audit.entry import END, STATE, Entry
from carousel.server.audit.folder import new_token
from carousel.server.audit.handed import Adjusted, Event, Turn
from carousel.server.audit.head import Head
from carousel.server.audit.log import Log
from carousel.server.audit.writer import Writer
from carousel.server.loaded import LoadedVersion
from carousel.server.metrics import Metrics
from carousel.server.ride import Ride
from carousel.server.scheduler import Plan
from carousel.server.table import MEMORY, SessionTable
from carousel.server.work import Floats, Ints
from carousel.v1 import session_service_pb2 as pb

logger = logging.getLogger("carousel.input_log")

MOST_WAITING = 2**28  # bytes that the writer may be behind

NO_STATES: Floats = np.zeros((0, 0), np.float32)


class Recorder:
    """Only the engine's thread may call its methods; `post` runs a function there.

    `every` is the number of steps after which a session's state stands in its log again. A log
    that can't be written, or not as fast as steps come, is given up: its session goes on.
    """

    def __init__(
        self,
        table: SessionTable,
        writer: Writer,
        *,
        every: int,
        post: Callable[[Callable[[], None]], None],
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self.writer = writer
        writer.on_broken = lambda log, why: post(lambda: self._broken(log, why))
        self._table = table
        self._every = every
        self._clock = clock
        self._metrics = metrics.audit
        self._numbers = 0

    def begin(self, slots: Ints, version: LoadedVersion, event: int, *, token: str = "") -> None:
        """Give sessions a log from here on; `token` is of one that has a log already."""
        table = self._table
        for slot, state in zip(slots.tolist(), self._states(slots, version, event), strict=True):
            self._numbers += 1
            log = Log(
                self._numbers,
                table.ids[slot],
                token or new_token(),
                durable=bool(table.durability[slot] != MEMORY),
            )
            table.audited[slot], table.audit[slot] = log, log.number
            self.writer.put(Event(log, Head.of(log.session_id, version), state))
        self._metrics.sessions.inc(len(slots))

    def moved(self, slot: int, version: LoadedVersion, event: int) -> None:
        """Something other than a step set the state of a session, or its version."""
        log = self._table.audited.get(slot)
        if log is not None:
            [state] = self._states(np.array([slot]), version, event)
            migrated = event == pb.AUDIT_EVENT_MIGRATED
            head = Head.of(log.session_id, version) if migrated else None
            self.writer.put(Event(log, head, state))

    def _states(self, slots: Ints, version: LoadedVersion, event: int) -> list[Entry]:
        table, now = self._table, self._clock()
        table.audit_from[slots] = table.next_index[slots]
        rows: Floats = version.arena.read(table.row[slots]).cpu().numpy()
        indexes = table.next_index[slots].tolist()
        return [
            Entry(STATE, index, now, row.tobytes(), cause=event)
            for index, row in zip(indexes, rows, strict=True)
        ]

    def turn(self, version: LoadedVersion, plan: Plan, ride: Ride) -> None:
        """Steps were committed: to be called once a turn, after that."""
        table = self._table
        chosen = np.flatnonzero(table.audit[ride.slots])
        if not len(chosen):
            return
        slots, places = ride.slots[chosen], ride.places[chosen]
        lengths = None if plan.lengths is None else plan.lengths[places]
        after = table.next_index[slots]
        adjusted = self._adjusted(ride) if ride.touches else []
        due = np.flatnonzero(after - table.audit_from[slots] >= self._every)
        states = NO_STATES
        if len(due):
            table.audit_from[slots[due]] = after[due]
            states = version.arena.read(table.row[slots[due]]).cpu().numpy()
        config = version.config
        features = 0 if config.takes_tokens else config.input_size
        item = Turn(
            shape=(features, config.output_size, version.bit_exact),
            numbers=table.audit[slots],
            first=after - (1 if lengths is None else lengths),
            lengths=lengths,
            inputs=plan.inputs[places],
            outputs=ride.outputs[chosen],
            time=self._clock(),
            due=due,
            states=states,
            adjusted=adjusted,
        )
        if self.writer.backlog + item.bytes > MOST_WAITING:
            for log in [table.audited[slot] for slot in slots.tolist()]:
                self.writer.put(Event(log, leaves=True))
                self._broken(log, "it could not be written as fast as steps came")
        else:
            self.writer.put(item)

    def _adjusted(self, ride: Ride) -> list[Adjusted]:
        """The states that rules of the model's health policy set."""
        table, found = self._table, dict[tuple[int, int], Adjusted]()
        for touch in ride.touches:
            number, after = int(table.audit[touch.slot]), touch.step_index + 1
            if number and touch.row is not None:
                found[touch.slot, after] = number, after, touch.row
                table.audit_from[touch.slot] = after
        return list(found.values())

    def end(self, slot: int, reason: int, now: float) -> None:
        """A session is over: to be called before its slot is freed."""
        log = self._table.audited.get(slot)
        if log is not None:
            entry = Entry(END, int(self._table.next_index[slot]), now, cause=reason)
            self._leave(slot, Event(log, entry=entry, leaves=True))

    def lose(self, slot: int) -> None:
        """A session goes on elsewhere, and its log in another file; or it never began here."""
        log = self._table.audited.get(slot)
        if log is not None:
            never_stored = log.durable and not self._table.stored_handle[slot]
            self._leave(slot, Event(log, leaves=True, discards=never_stored))

    def discard(self, slot: int) -> None:
        """A session ends that nobody ever had: there is no log of it."""
        log = self._table.audited.get(slot)
        if log is not None:
            self._leave(slot, Event(log, leaves=True, discards=True))

    def _leave(self, slot: int, event: Event) -> None:
        self.writer.put(event)
        self._forget(slot)

    def _forget(self, slot: int) -> None:
        del self._table.audited[slot]
        self._table.audit[slot] = 0
        self._metrics.sessions.dec()

    def _broken(self, log: Log, why: str) -> None:
        table = self._table
        logger.error("the audit log of sessions/%s is given up: %s", log.session_id, why)
        self._metrics.failures.inc()
        slot = table.slots.get(log.session_id)
        if slot is not None and table.audited.get(slot) is log:
            log.broken = True
            self._forget(slot)

    def secure(self) -> None:
        """Return when the logs of durable sessions are on the disk; for the store's thread."""
        if self._table.audited:
            self.writer.secure()
