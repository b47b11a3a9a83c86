"""Write-behind: what durable sessions committed goes to the store, off the path of a turn.

Between two turns the engine copies the rows that moved; a thread of its own makes records of them
and writes them as one group. One group is on its way at a time, and is written again, the very
same, until the store has answered: so it is always known which handle the store has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

import numpy as np

from carousel.errors import SessionFenced, StoreUnavailable
from carousel.server import records
from carousel.server.groups import Done, Ending, Group, Held, Spill, Waiter, batch_of
from carousel.server.loaded import LoadedVersion
from carousel.server.records import HEADER, Columns
from carousel.server.store_metrics import StoreMetrics
from carousel.server.stores import StateStore
from carousel.server.table import FREE, MEMORY, NO_REPLY, NO_ROW, SYNC, Ended, SessionTable
from carousel.server.work import NEVER, Answer, Floats, Ints

log = logging.getLogger("carousel.store")

MOST = 1024  # sessions of one group: what the engine copies between two turns
FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0  # seconds between attempts


class WriteBehind:
    """Knows what the store has of each session, and brings it what is new.

    Only the engine's thread may call its methods. `post` runs a function in that thread.
    `interval` is in seconds, `steps` how far a session may be ahead of the store before that.
    `before` is called by the store's thread before each group is written.
    """

    def __init__(
        self,
        table: SessionTable,
        versions: Sequence[LoadedVersion],
        store: StateStore | None,
        *,
        post: Callable[[Callable[[], None]], None],
        deliver: Callable[[Answer], None],
        lose: Callable[[int], None],
        metrics: StoreMetrics,
        before: Callable[[], None] = lambda: None,
        interval: float = 0.05,
        steps: int = 32,
    ) -> None:
        self.store = store
        self.trouble: StoreUnavailable | None = None  # of the last attempt
        self._table = table
        self._versions = versions
        self._post = post
        self._deliver = deliver
        self._lose = lose
        self._metrics = metrics
        self._before = before
        self._interval = interval
        self._steps = steps
        self._touched: list[Ints] = []
        self._since = NEVER  # time.monotonic of the first change that waits
        self._rest_until = 0.0
        self._urgent = False  # somebody waits
        self._behind = False  # some session is `steps` ahead
        self._endings: dict[str, Ending] = {}
        self._spills: dict[int, Spill] = {}  # by slot
        self._waiters: list[Waiter] = []
        self._held: list[Held] = []
        self._underway: Group | None = None
        self._tails: dict[str, bytes] = {}
        self._groups: SimpleQueue[Group | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write, name="carousel-store", daemon=True)

    def start(self) -> None:
        if self.store is not None:
            self._thread.start()

    def stop(self) -> None:
        """End the thread; a group that the store does not take is given up."""
        self._stopping.set()
        self._groups.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    # What changed

    def touched(self, slots: Ints) -> None:
        """These sessions moved or changed; those of MEMORY are passed over."""
        table = self._table
        slots = slots[table.durability[slots] != MEMORY]
        if self.store is None or not len(slots):
            return
        self._touched.append(slots)
        self._since = min(self._since, time.monotonic())
        ahead = table.next_index[slots] - table.flushed_index[slots]
        self._behind |= bool(ahead.max() >= self._steps)

    def has_news_of(self, slots: Ints) -> list[bool]:
        """Which of these sessions changed in a way that is not on its way to the store yet."""
        touched = np.concatenate([np.zeros(0, np.int64), *self._touched])
        news: list[bool] = np.isin(slots, touched).tolist()
        return news

    def spill(self, slot: int, data: bytes, *, let_go: bool) -> None:
        """Write the record of a parked session to the store."""
        table = self._table
        table.revision[slot] += 1
        table.flushed_index[slot] = table.next_index[slot]
        self._spills[slot] = Spill(
            slot=slot,
            birth=int(table.birth[slot]),
            session_id=table.ids[slot],
            handle=int(table.handle[slot]),
            revision=int(table.revision[slot]),
            step_index=int(table.next_index[slot]),
            expire_time=float(table.expire_time(np.array([slot]))[0]),
            data=data,
            let_go=let_go,
        )
        self._since = min(self._since, time.monotonic())

    def former_of(self, session_id: str) -> tuple[int, int]:
        """Handle and revision in the store of a session of this id that ended a moment ago.

        The store will hear of its successor only.
        """
        ending = self._endings.pop(session_id, None)
        return (0, 0) if ending is None else (ending.former, ending.revision)

    def ended(self, slot: int, ended: Ended) -> None:
        """A session is over: to be called before its slot is freed."""
        table = self._table
        if self.store is None or not self._is_stored(slot):
            return
        self._endings[ended.session_id] = Ending(
            ended, int(table.stored_handle[slot]), int(table.birth[slot]), int(table.revision[slot])
        )
        self._since = min(self._since, time.monotonic())

    def is_ending(self, session_id: str) -> bool:
        """Whether the store is still to hear that this session ended; from any thread."""
        underway = self._underway
        return session_id in self._endings or (
            underway is not None
            and any(one.ended.session_id == session_id for one in underway.endings)
        )

    def _is_stored(self, slot: int) -> bool:
        """Whether the store has, or will have, anything of it."""
        table = self._table
        return bool(table.durability[slot] != MEMORY or table.stored_handle[slot])

    # Who waits

    def refuse_when_troubled(self) -> None:
        """Raises StoreUnavailable while the last write did not go through; from any thread."""
        if self.trouble is not None:
            raise StoreUnavailable(self.trouble.message, retry_after=1.0)

    def secure(self, slots: Sequence[int], done: Done) -> None:
        """Call `done` when these sessions, as they are now, are in the store."""
        table = self._table
        here, needs = [], {}
        for slot in slots if self.store is not None else ():
            if table.durability[slot] == MEMORY:
                continue
            if table.row[slot] != NO_ROW:
                here.append(slot)
                needs[int(table.birth[slot])] = int(table.revision[slot]) + 1
            elif (record := table.parked[slot]) is not None:
                self.spill(slot, record, let_go=False)
                needs[int(table.birth[slot])] = int(table.revision[slot])
        if here:
            self.touched(np.array(here))
        if needs:
            self._wait(needs, done)
        else:
            done(None)

    def secure_all(self, done: Done) -> None:
        """The same for all sessions that are ahead of the store."""
        table = self._table
        behind = (table.state != FREE) & (table.durability != MEMORY) & (table.row != NO_ROW)
        behind &= (table.durable_index < table.next_index) | (table.stored_handle != table.handle)
        touched = np.concatenate([np.zeros(0, np.int64), *self._touched])
        slots = np.union1d(np.flatnonzero(behind), [*touched, *self._spills]).astype(np.int64)
        self.secure(slots[table.state[slots] != FREE].tolist(), done)

    def secure_end(self, session_id: str, done: Done) -> None:
        """Call `done` when the store knows of the session's end."""
        ending = self._endings.get(session_id)
        if ending is None:
            done(None)
        else:
            self._wait({ending.birth: ending.revision + 1}, done)

    def _wait(self, needs: dict[int, int], done: Done) -> None:
        self._urgent = True
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
        self._urgent = True
        self._held.append(Held(answer, slots, table.birth[slots], table.next_index[slots].copy()))

    # The way to the store

    @property
    def lag_steps(self) -> int:
        """Steps that are committed and not in the store, of all durable sessions."""
        table = self._table
        durable = (table.durability != MEMORY) & (table.state != FREE)
        return int((table.next_index - table.durable_index)[durable].sum())

    @property
    def idle(self) -> bool:
        return self._underway is None and not self._has_news

    @property
    def _has_news(self) -> bool:
        return bool(self._touched or self._endings or self._spills)

    def due_in(self, now: float) -> float:
        """Seconds until something should be written; on the clock of time.monotonic."""
        if self._underway is not None or not self._has_news:
            return NEVER
        if self._urgent:
            return 0.0
        soonest = 0.0 if self._behind else self._since + self._interval - now
        return max(soonest, self._rest_until - now)

    def flush(self) -> None:
        """Send off the next group if it is time."""
        if self.due_in(time.monotonic()) > 0:
            return
        slots, more = self._next_slots()
        table = self._table
        endings = list(self._endings.values())
        ended = {ending.ended.session_id for ending in endings}
        spills = [
            one
            for one in self._spills.values()
            if table.birth[one.slot] == one.birth
            and table.parked.get(one.slot) is one.data
            and one.session_id not in ended
        ]
        for spill in spills:
            spill.former = int(table.stored_handle[spill.slot])
        group = Group(self._copy(slots), spills, endings)
        self._endings.clear()
        self._spills.clear()
        self._touched = [more] if len(more) else []
        self._since = time.monotonic() if len(more) else NEVER
        self._urgent = self._urgent and bool(len(more))
        self._behind = bool(len(more))
        if group.columns or spills or endings:
            self._underway = group
            self._groups.put(group)

    def _next_slots(self) -> tuple[Ints, Ints]:
        """Sessions to write now, and those for the next group: SYNC first, then as they came."""
        table = self._table
        if not self._touched:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        slots, first = np.unique(np.concatenate(self._touched), return_index=True)
        order = np.lexsort((first, table.durability[slots] != SYNC))
        slots = slots[order]
        here = (table.state[slots] != FREE) & (table.durability[slots] != MEMORY)
        slots = slots[here & (table.row[slots] != NO_ROW)]
        return slots[:MOST], slots[MOST:]

    def _copy(self, slots: Ints) -> list[Columns]:
        """The sessions as they are now, by model version."""
        table = self._table
        table.revision[slots] += 1
        table.flushed_index[slots] = table.next_index[slots]
        by_ordinal = {version.ordinal: version for version in self._versions}
        ordinals = table.version[slots]
        return [
            self.columns(by_ordinal[ordinal], slots[ordinals == ordinal])
            for ordinal in np.unique(ordinals).tolist()
            if ordinal in by_ordinal
        ]

    def columns(self, version: LoadedVersion, slots: Ints) -> Columns:
        """Sessions of one version as columns of records."""
        table = self._table
        header = np.zeros(len(slots), HEADER)
        header["digest"] = np.void(version.digest)
        header["width"] = version.arena.width
        header["outputs"] = version.config.output_size
        header["step_index"] = table.next_index[slots]
        for name in (
            *("durability", "state", "rewind_depth", "reply_index"),
            *("ttl", "lifetime_end", "create_time", "last_use", "former_handle", "attach_index"),
        ):
            header[name] = getattr(table, name)[slots]
        own = table.row[slots]
        states: Floats = version.arena.read(own).cpu().numpy()
        outputs = version.replies[own]
        tail = self._tails.setdefault(version.name, records.tail(version.name))
        columns = Columns(
            version=version,
            ids=[table.ids[slot] for slot in slots.tolist()],
            header=header,
            rows=list(states[:, None]),
            replies=list(outputs[:, None]),
            tails=[tail] * len(slots),
            births=table.birth[slots],
            slots=slots,
            formers=table.stored_handle[slots].tolist(),
            handles=table.handle[slots].tolist(),
            revisions=table.revision[slots].tolist(),
            expire_times=table.expire_time(slots).tolist(),
        )
        self._add_replies(columns, outputs.shape[1])
        if table.rings or table.marks or table.memos or table.audited:
            self._add_more(columns, version)
        return columns

    def _add_replies(self, columns: Columns, width: int) -> None:
        """Replies of chunks in place of single outputs, and none where there was no step yet."""
        table = self._table
        nothing = np.zeros((0, width), np.float32)
        for place in np.flatnonzero(columns.header["reply_index"] == NO_REPLY).tolist():
            columns.replies[place] = nothing
        if len(table.chunk_replies):
            for place, slot in enumerate(columns.slots.tolist()):
                reply = table.chunk_replies.get(slot)
                if reply is not None:
                    columns.replies[place] = reply

    def _add_more(self, columns: Columns, version: LoadedVersion) -> None:
        """Kept states, bookmarks, memos of generations and audit logs, where there are any."""
        table = self._table
        for place, slot in enumerate(columns.slots.tolist()):
            ring, marks = table.rings.get(slot), table.marks.get(slot, {})
            memo, log = table.memo_of(slot), table.audited.get(slot)
            kept = {} if ring is None else ring.kept(int(table.next_index[slot]))
            rows = [*kept.values(), *(mark.row for mark in marks.values())]
            if not rows and memo is None and log is None:
                continue
            if rows:
                states = version.arena.read(np.array(rows)).cpu().numpy()
                columns.rows[place] = np.concatenate([columns.rows[place], states])
            places = iter(range(1, len(rows) + 1))
            columns.tails[place] = records.tail(
                version.name,
                kept={index: next(places) for index in kept},
                marks={name: (mark.step_index, next(places)) for name, mark in marks.items()},
                memo=memo,
                audit="" if log is None else log.token,
            )

    # In the thread of the store

    def _write(self) -> None:
        assert self.store is not None
        while (group := self._groups.get()) is not None:
            self._before()
            delay = FIRST_DELAY
            batch = None
            while not self._stopping.is_set():
                try:
                    batch = batch or batch_of(group)
                    refused = self.store.write(batch)
                except Exception as error:
                    self._tell_failure(error)
                    self._stopping.wait(delay)
                    delay = min(2 * delay, LONGEST_DELAY)
                else:
                    self._tell_success(group, refused)
                    break
        self.store.close()

    def _tell_failure(self, error: Exception) -> None:
        if not isinstance(error, StoreUnavailable):  # a bug: the server must not go down with it
            log.error("sessions could not be written", exc_info=error)
            error = StoreUnavailable(f"a fault of the server: {type(error).__name__}")
        failure = error
        self._post(lambda: self._failed(failure))

    def _tell_success(self, group: Group, refused: list[int]) -> None:
        self._post(lambda: self._written(group, frozenset(refused)))

    # What became of it

    def _failed(self, error: StoreUnavailable) -> None:
        """An attempt failed; there will be another. Nobody waits for it longer."""
        if self.trouble is None:
            log.error("the store of sessions fails: %s", error.message)
        self.trouble = error
        self._metrics.failures.inc()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.done(StoreUnavailable(error.message, retry_after=1.0))
        held, self._held = self._held, []
        for one in held:
            why = StoreUnavailable(
                f"{error.message}; the step is committed in memory only: send it again",
                retry_after=1.0,
            )
            self._deliver(one.answer.failed(why))

    def _written(self, group: Group, refused: frozenset[int]) -> None:
        seconds = time.monotonic() - group.began
        if self.trouble is not None:
            log.info("the store of sessions works again")
            self.trouble = None
        self._underway = None
        self._rest_until = time.monotonic() + min(seconds, 1.0)
        self._metrics.write_seconds.observe(seconds)
        written: dict[int, int] = {}  # revisions by birth
        lost: set[int] = set()  # births
        begin = 0
        for columns in group.columns:
            good = np.array([place not in refused for place in range(begin, begin + len(columns))])
            begin += len(columns)
            self._settle(columns, good)
            written.update(zip(columns.births.tolist(), columns.revisions, strict=True))
            lost.update(columns.births[~good].tolist())
        for place, spill in enumerate(group.spills, begin):
            written[spill.birth] = spill.revision
            if place in refused:
                lost.add(spill.birth)
            self._spilled(spill, refused=place in refused)
        for ending in group.endings:
            written[ending.birth] = ending.revision + 1
        if self._waiters:
            self._release_waiters(written, lost)
        if self._held:
            self._release_held()

    def _settle(self, columns: Columns, good: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        """Note what the store has of these sessions now; let go of those that others took over."""
        table = self._table
        same = table.birth[columns.slots] == columns.births
        slots = columns.slots[good & same]
        table.durable_index[slots] = columns.header["step_index"][good & same]
        handles = np.array(columns.handles, np.uint64)
        table.stored_handle[slots] = handles[good & same]
        columns.version.metrics.snapshots.inc(int(good.sum()))
        for place in np.flatnonzero(~same).tolist():
            ending = self._endings.get(columns.ids[place])
            if ending is not None and ending.birth == columns.births[place]:
                ending.former = columns.handles[place]
        for place in np.flatnonzero(~good & same).tolist():
            self._let_go(int(columns.slots[place]))

    def _spilled(self, spill: Spill, *, refused: bool) -> None:
        table, slot = self._table, spill.slot
        if table.birth[slot] != spill.birth:
            ending = self._endings.get(spill.session_id)
            if ending is not None and ending.birth == spill.birth:
                ending.former = spill.handle
            return
        if refused:
            self._let_go(slot)
            return
        table.stored_handle[slot] = spill.handle
        if table.durability[slot] != MEMORY:
            table.durable_index[slot] = spill.step_index
        if spill.let_go and table.parked.get(slot) is spill.data:
            table.parked[slot] = None

    def _let_go(self, slot: int) -> None:
        log.warning("sessions/%s went on elsewhere; it is let go of here", self._table.ids[slot])
        self._metrics.fenced.inc()
        self._lose(slot)

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
        self._urgent |= bool(waiting)

    def _release_held(self) -> None:
        table, waiting = self._table, []
        for one in self._held:
            same = table.birth[one.slots] == one.births
            if (same & (table.state[one.slots] != FREE)).all():
                if (table.durable_index[one.slots] >= one.needs).all():
                    one.answer.durable = table.durable_index[one.slots]
                    self._deliver(one.answer)
                else:
                    waiting.append(one)
            else:
                why = SessionFenced(
                    "the session ended or was taken over before its step was stored"
                )
                self._deliver(one.answer.failed(why))
        self._held = waiting
        self._urgent |= bool(waiting)
