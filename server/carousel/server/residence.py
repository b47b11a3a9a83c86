"""Residence: where the states of sessions lie, and how they come and go.

A session's rows are in the arena of its model version while it is used. When the arena is full,
those that idle longest are parked: as records in the server's memory, and, when there are too many
of these, in the store. The next use brings them back. Nothing is dropped on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from carousel.errors import (
    CarouselError,
    ModelNotLoaded,
    SessionCapacity,
    SnapshotDamaged,
    StoreUnavailable,
)
from carousel.server import records
from carousel.server.away import Failures
from carousel.server.copies import columns_of
from carousel.server.engine import Engine
from carousel.server.groups import Done
from carousel.server.kept import Mark, Ring
from carousel.server.loaded import LoadedVersion
from carousel.server.names import session_name
from carousel.server.quotas import UNLIMITED, Quotas
from carousel.server.records import Record
from carousel.server.settings import Settings
from carousel.server.stores import Entry
from carousel.server.table import FREE, MEMORY, NO_ROW, SessionTable
from carousel.server.work import Floats, Ints
from carousel.v1 import session_pb2

PARKED_TOGETHER = 16  # at least one part in so many of an arena makes room at once

Found = Callable[[dict[str, Entry] | CarouselError], None]
Arrived = Callable[[int, CarouselError | None], None]


class Residence:
    """Gives out rows, parks and brings back; only the engine's thread may call its methods.

    `fetch` reads entries of the store beside the engine and calls back in the engine's thread.
    """

    def __init__(self, settings: Settings, quotas: Quotas = UNLIMITED) -> None:
        self._settings = settings
        self._quotas = quotas
        self._engine: Engine | None = None
        self._pinned: set[int] = set()  # slots that must not be parked now
        self._coming: dict[int, list[Arrived]] = {}  # slots on their way from the store
        self.fetch: Callable[[Sequence[str], Found], None] | None = None

    def attach_to(self, engine: Engine) -> None:
        self._engine = engine
        engine.away.residents = self

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("no engine yet")
        return self._engine

    @property
    def table(self) -> SessionTable:
        return self.engine.table

    def now(self) -> float:
        """Seconds since the epoch."""
        return self.engine.clock()

    def version_of(self, slot: int) -> LoadedVersion:
        ordinal = int(self.table.version[slot])
        version = next((v for v in self.engine.versions if v.ordinal == ordinal), None)
        if version is None:
            raise ModelNotLoaded("the session's model version was taken out of service")
        return version

    # Rows

    def check_room(self, version: LoadedVersion, count: int) -> None:
        """Whether the server may have so many sessions more. Raises SessionCapacity."""
        if len(self.table) + count > self._settings.max_sessions:
            raise SessionCapacity(
                f"at most {self._settings.max_sessions} sessions fit in, {len(self.table)} live, "
                f"{count} more were asked for",
                field="model",
                retry_after=1.0,
            )

    def check_quotas(self, tenant: str, version: LoadedVersion, sessions: int, rows: int) -> None:
        """Whether a tenant may have so many sessions and states more. Raises QuotaExceeded."""
        holding = self.table.owners.holding(tenant)
        if sessions:
            self._quotas.check(tenant, "sessions", holding.sessions, sessions)
        size = rows * version.arena.row_bytes
        self._quotas.check(tenant, "state_bytes", holding.bytes, size)

    def charge(self, slot: int, version: LoadedVersion) -> None:
        """Count the states of a session that is in the arena."""
        size = len(self.rows_of(slot)) * version.arena.row_bytes
        self.table.charge(np.array([slot]), size)

    def allocate(self, version: LoadedVersion, count: int, *, beside: int | None = None) -> Ints:
        """Rows of the arena; idle sessions make room, but not the one in the slot `beside`.

        Raises SessionCapacity.
        """
        if version.arena.room < count:
            with self._pinning(set() if beside is None else {beside}):
                self._make_room(version, count)
        return version.allocate(count)

    @contextmanager
    def _pinning(self, slots: set[int]) -> Iterator[None]:
        """Park none of these, beside those that are pinned already."""
        before = self._pinned
        self._pinned = before | slots
        try:
            yield
        finally:
            self._pinned = before

    def rows_of(self, slot: int) -> list[int]:
        """All rows of a session that is here: its own, kept states, bookmarks."""
        if self.table.row[slot] == NO_ROW:
            return []
        ring = self.table.rings.get(slot)
        return [
            int(self.table.row[slot]),
            *([] if ring is None else ring.rows.tolist()),
            *(mark.row for mark in self.table.marks.get(slot, {}).values()),
        ]

    def fill(self, version: LoadedVersion, slot: int, record: Record) -> None:
        """Give a session rows, and put a record's states and reply into them."""
        depth, table = record.rewind_depth, self.table
        rows = self.allocate(version, 1 + depth + len(record.marks))
        targets, places = [int(rows[0])], [0]
        if depth:
            ring = table.rings[slot] = Ring(rows[1 : 1 + depth])
            for index, place in record.kept.items():
                targets.append(ring.keep(index))
                places.append(place)
        for row, (name, (index, place)) in zip(
            rows[1 + depth :].tolist(), record.marks.items(), strict=True
        ):
            table.marks.setdefault(slot, {})[name] = Mark(row, index)
            targets.append(row)
            places.append(place)
        states = torch.from_numpy(record.rows[places].copy()).to(version.arena.device)
        version.arena.write(np.array(targets), states)
        table.row[slot] = rows[0]
        self.charge(slot, version)
        if len(record.reply):
            self.put_reply(version, slot, record.reply_index, record.reply.copy())
        if record.memo is not None:
            table.put_memo(slot, record.memo)

    def put_reply(self, version: LoadedVersion, slot: int, index: int, reply: Floats) -> None:
        self.table.reply_index[slot] = index
        if len(reply) == 1:
            version.replies[self.table.row[slot]] = reply[0]
        else:
            self.table.chunk_replies.put(slot, reply)

    # Going

    def _make_room(self, version: LoadedVersion, count: int) -> None:
        """Park idle sessions of this version, longest idle first, until so many rows are free."""
        table, arena = self.table, version.arena
        idle = (
            (table.version == version.ordinal)
            & (table.state != FREE)
            & (table.row != NO_ROW)
            & (table.tail == table.serving)
        )
        idle[list(self._pinned)] = False
        slots = np.flatnonzero(idle)
        slots = slots[np.argsort(table.last_use[slots], kind="stable")]
        wanted = max(count - arena.room, min(len(slots), arena.limit // PARKED_TOGETHER))
        chosen: list[int] = []
        for slot in slots.tolist():
            if wanted <= 0:
                break
            chosen.append(slot)
            wanted -= len(self.rows_of(slot))
        if wanted > 0 and count > arena.room + sum(len(self.rows_of(slot)) for slot in chosen):
            raise SessionCapacity(
                f"the arena of {version.name} holds {arena.limit} rows, {arena.used} are in use, "
                f"and too few of their sessions idle to make room for {count} more",
                field="model",
                retry_after=1.0,
            )
        self._park(version, np.array(chosen))

    def _park(self, version: LoadedVersion, slots: Ints) -> None:
        """Move sessions of one version out of the arena, into records."""
        table = self.table
        data = records.encode(columns_of(table, version, slots))
        rows = [row for slot in slots.tolist() for row in self.rows_of(slot)]
        changed = self.engine.behind.has_news_of(slots)
        for slot, record, news in zip(slots.tolist(), data, changed, strict=True):
            table.parked[slot] = record
            table.chunk_replies.forget(slot)
            table.memos.pop(slot, None)
            if table.durability[slot] != MEMORY and (news or not self._is_stored(slot)):
                self.engine.behind.spill(slot, record, let_go=False)
        table.row[slots] = NO_ROW
        version.arena.release(np.array(rows))
        version.metrics.parks.inc(len(slots))
        self._spill()

    def _spill(self) -> None:
        """Let the store have what the memory for parked sessions can't hold."""
        limit, behind = self._settings.host_sessions, self.engine.behind
        if limit is None or behind.store is None or behind.trouble is not None:
            return
        table = self.table
        held = [slot for slot, record in table.parked.items() if record is not None]
        for slot in held[: max(0, len(held) - limit)]:
            record = table.parked[slot]
            assert record is not None
            if table.durability[slot] == MEMORY:
                behind.spill(slot, record, let_go=True)
            elif self._is_stored(slot):
                table.parked[slot] = None

    def _is_stored(self, slot: int) -> bool:
        """Whether the store has a durable session as it is."""
        table = self.table
        return bool(
            table.durable_index[slot] == table.next_index[slot]
            and table.stored_handle[slot] == table.handle[slot]
        )

    # Coming back

    def at(self, slot: int) -> int:
        """The slot itself, with the session's state in the arena."""
        if self.table.row[slot] == NO_ROW:
            record = self.table.parked[slot]
            if record is None:
                raise StoreUnavailable(
                    f"{session_name(self.table.ids[slot])} is on its way from the store",
                    retry_after=0.1,
                )
            self._bring_back(slot, record)
        return slot

    def resident(self, ids: Sequence[str], done: Done) -> None:
        """Call `done` when the states of those that are here at all are in the arena."""
        slots = [self.table.slots[one] for one in ids if one in self.table.slots]
        self.want(slots, lambda failures: done(next(iter(failures.values()), None)))

    def recall(self, slots: Sequence[int], *, pinned: set[int]) -> dict[int, CarouselError]:
        """Bring back those that are parked in memory, at once and in order, as far as there is
        room, but park none of `pinned`; gives what failed by slot."""
        failed: dict[int, CarouselError] = {}
        with self._pinning(pinned):
            for slot in slots:
                record = self.table.parked[slot]
                if record is not None and (error := self._try(slot, record)) is not None:
                    failed[slot] = error
                    if isinstance(error, SessionCapacity):
                        break
        return failed

    def want(self, slots: Sequence[int], done: Callable[[Failures], None]) -> None:
        """Bring sessions back; calls `done` when the last one is here, or failed."""
        failures: dict[int, CarouselError] = {}
        left = 1

        def arrived(slot: int | None, error: CarouselError | None) -> None:
            nonlocal left
            left -= 1
            if slot is not None and error is not None:
                failures[slot] = error
            if not left:
                done(failures)

        absent = []
        for slot in slots:
            if self.table.row[slot] != NO_ROW:
                continue
            left += 1
            record = self.table.parked[slot]
            if record is not None:
                arrived(slot, self._try(slot, record))
            elif slot in self._coming:
                self._coming[slot].append(arrived)
            else:
                self._coming[slot] = [arrived]
                absent.append(slot)
        if absent:
            self._fetch(absent)
        arrived(None, None)

    def _fetch(self, slots: list[int]) -> None:
        ids = [self.table.ids[slot] for slot in slots]
        births = self.table.birth[slots].tolist()

        def found(entries: dict[str, Entry] | CarouselError) -> None:
            with self._pinning(set(slots)):  # those that arrive together do not park each other
                for slot, session_id, birth in zip(slots, ids, births, strict=True):
                    self._arrive(slot, session_id, birth, entries)

        assert self.fetch is not None
        self.fetch(ids, found)

    def _arrive(
        self, slot: int, session_id: str, birth: int, entries: dict[str, Entry] | CarouselError
    ) -> None:
        """A session came from the store, or did not."""
        waiting = self._coming.pop(slot)
        error: CarouselError | None = None
        if self.table.birth[slot] == birth and self.table.row[slot] == NO_ROW:
            if isinstance(entries, CarouselError):
                error = entries
            elif session_id in entries:
                record = entries[session_id].data
                error = self._try(slot, record)
                if isinstance(error, SessionCapacity):  # it need not be read again
                    self.table.parked[slot] = record
                    self.table.parked.move_to_end(slot)
            else:
                error = self._broken(slot, SnapshotDamaged("the store no longer has it"))
        for arrived in waiting:
            arrived(slot, error)

    def _try(self, slot: int, record: bytes) -> CarouselError | None:
        try:
            self._bring_back(slot, record)
        except SnapshotDamaged as error:
            return self._broken(slot, error)
        except CarouselError as error:
            return error
        return None

    def _bring_back(self, slot: int, data: bytes) -> None:
        table = self.table
        record = records.decode(table.ids[slot], data)
        if not isinstance(record, Record) or record.step_index != table.next_index[slot]:
            raise SnapshotDamaged(f"the record of {session_name(table.ids[slot])} is another's")
        self.fill(self.version_of(slot), slot, record)
        del table.parked[slot]
        self.version_of(slot).metrics.unparks.inc()
        self.engine.behind.touched(np.array([slot]))

    def _broken(self, slot: int, why: SnapshotDamaged) -> CarouselError:
        """A parked session can't come back: it ends, and everybody is told."""
        session_id = self.table.ids[slot]
        self.version_of(slot).metrics.restore_failed(why)
        self.end(slot, session_pb2.END_REASON_ERROR)
        ended = self.table.departed.ended(session_id)
        assert ended is not None
        error = ended.error()
        error.metadata["cause"] = why.message
        return error

    def end(
        self, slot: int, reason: session_pb2.EndReason.ValueType, now: float | None = None
    ) -> None:
        raise NotImplementedError
