"""Write-behind: what durable sessions committed goes to the store, off the path of a turn.

Between two turns the engine copies the rows that moved; a thread of its own makes records of them
and writes them as one group. One group is on its way at a time, and is written again, the very
same, until the store has answered: so it is always known which handle the store has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from carousel.errors import CarouselError, StoreUnavailable
from carousel.server.copies import columns_of
from carousel.server.departed import Ended
from carousel.server.groups import Done, Ending, Group, Held, Spill
from carousel.server.loaded import LoadedVersion
from carousel.server.moved import LITTLE, MUCH, NOBODY, USUAL, Moved
from carousel.server.records import Columns
from carousel.server.store_metrics import StoreMetrics
from carousel.server.store_writer import StoreWriter
from carousel.server.stores import StateStore
from carousel.server.table import FREE, MEMORY, NO_ROW, SessionTable
from carousel.server.waiting import Waiting
from carousel.server.work import NEVER, Answer, Ints

log = logging.getLogger("carousel.store")

LONGEST_REST = 1.0
LONGEST_WAIT = 5.0  # seconds that a change may wait where the store is written little by little


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
        self._lose = lose
        self._metrics = metrics
        self._interval = interval
        self._steps = steps
        self._moved = Moved(table)
        self._since = NEVER  # time.monotonic of the first change that waits
        self._rest_until = 0.0
        self._portion = USUAL  # of the last group
        self._urgent = False  # somebody waits
        self._behind = False  # some session is `steps` ahead
        self._endings: dict[str, Ending] = {}
        self._spills: dict[int, Spill] = {}  # by slot
        self._underway: Group | None = None
        self._waiting = Waiting(table, deliver, failed=self._count_failures)
        self._writer = None
        if store is not None:
            self._writer = StoreWriter(
                store,
                before=before,
                failed=lambda error: post(lambda: self._failed(error)),
                written=lambda group, refused: post(lambda: self._written(group, refused)),
            )

    def start(self) -> None:
        if self._writer is not None:
            self._writer.start()

    def stop(self) -> None:
        """End the thread; a group that the store does not take is given up."""
        if self._writer is not None:
            self._writer.stop()

    # What changed

    def touched(self, slots: Ints) -> None:
        """These sessions moved or changed; those of MEMORY are passed over."""
        table = self._table
        slots = slots[table.durability[slots] != MEMORY]
        if self.store is None or not len(slots):
            return
        self._moved.add(slots, now := time.monotonic())
        self._since = min(self._since, now)
        ahead = table.next_index[slots] - table.flushed_index[slots]
        self._behind |= bool(ahead.max() >= self._steps)

    def has_news_of(self, slots: Ints) -> list[bool]:
        """Which of these sessions changed in a way that is not on its way to the store yet."""
        news: list[bool] = self._table.touched[slots].tolist()
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

    def ending_of(self, ids: Iterable[str]) -> set[str]:
        """Which of these sessions ended a moment ago, so that the store is still to hear of it."""
        return self._endings.keys() & ids

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
        return session_id in self._endings or self._underway_ending(session_id) is not None

    def _underway_ending(self, session_id: str) -> Ending | None:
        underway = self._underway
        endings = () if underway is None else underway.endings
        return next((one for one in endings if one.ended.session_id == session_id), None)

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
        durable = np.unique(np.array(slots, np.int64)) if self.store is not None else NOBODY
        durable = durable[table.durability[durable] != MEMORY]
        is_here = table.row[durable] != NO_ROW
        here = durable[is_here]
        births, revisions = table.birth[here].tolist(), (table.revision[here] + 1).tolist()
        needs: dict[int, int] = dict(zip(births, revisions, strict=True))
        for slot in durable[~is_here].tolist():
            if (record := table.parked[slot]) is not None:
                self.spill(slot, record, let_go=False)
                needs[int(table.birth[slot])] = int(table.revision[slot])
        self.touched(here)
        if needs:
            self._urgent = True
            self._waiting.wait(needs, done)
        else:
            done(None)

    def secure_all(self, done: Done) -> None:
        """The same for all sessions that are ahead of the store."""
        table = self._table
        behind = (table.state != FREE) & (table.durability != MEMORY) & (table.row != NO_ROW)
        behind &= (table.durable_index < table.next_index) | (table.stored_handle != table.handle)
        behind |= table.touched
        slots = np.union1d(np.flatnonzero(behind), [*self._spills]).astype(np.int64)
        self.secure(slots[table.state[slots] != FREE].tolist(), done)

    def secure_end(self, session_id: str, done: Done) -> None:
        """Call `done` when the store knows of the session's end."""
        ending = self._endings.get(session_id) or self._underway_ending(session_id)
        if ending is None:
            done(None)
        else:
            self._urgent = True
            self._waiting.wait({ending.birth: ending.revision + 1}, done)

    def hold_back(self, answer: Answer) -> Answer | None:
        """What of an answer may leave now; outputs of SYNC sessions wait until they are stored."""
        assert answer.slots is not None
        if not self._table.syncs or not len(held := self._waiting.is_held(answer.slots)):
            return answer
        kept, rest = answer.split(held)
        kept.held_since = time.monotonic()
        self._urgent = True
        self._waiting.hold(kept, answer.slots[held])
        return rest

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
        return bool(self._moved or self._endings or self._spills)

    def due_in(self, now: float) -> float:
        """Seconds until something should be written; on the clock of time.monotonic."""
        if self._underway is not None or not self._has_news:
            return NEVER
        if self._urgent:
            return 0.0
        soonest = 0.0 if self._behind else self._since + self._interval - now
        return max(soonest, self._rest_until - now)

    def flush(self, *, gently: bool = False) -> None:
        """Send off the next group if it is time.

        `gently`: a small one, unless somebody waits for it or what moved has waited for long.
        """
        begin = time.monotonic()
        if self.due_in(begin) > 0:
            return
        gently &= self._moved.age(begin) < LONGEST_WAIT
        self._portion = MUCH if self._urgent else LITTLE if gently else USUAL
        slots = self._moved.take(self._portion)
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
        more = bool(self._moved)
        self._since = time.monotonic() if more else NEVER
        self._urgent = self._urgent and more
        self._behind = more
        if group.columns or spills or endings:
            assert self._writer is not None, "without a store nothing is touched, spilled or ended"
            self._underway = group
            self._writer.put(group)
            self._metrics.copy_seconds.observe(time.monotonic() - begin)

    def _copy(self, slots: Ints) -> list[Columns]:
        """The sessions as they are now, by model version."""
        table = self._table
        table.revision[slots] += 1
        table.flushed_index[slots] = table.next_index[slots]
        by_ordinal = {version.ordinal: version for version in self._versions}
        ordinals = table.version[slots]
        return [
            columns_of(table, by_ordinal[ordinal], slots[ordinals == ordinal])
            for ordinal in np.unique(ordinals).tolist()
            if ordinal in by_ordinal
        ]

    # What became of it

    def _failed(self, error: StoreUnavailable) -> None:
        """An attempt failed; there will be another. Nobody waits for it longer."""
        if self.trouble is None:
            log.error("the store of sessions fails: %s", error.message)
        self.trouble = error
        self._metrics.failures.inc()
        self._waiting.fail(error)

    def _written(self, group: Group, refused: frozenset[int]) -> None:
        seconds = time.monotonic() - group.began
        if self.trouble is not None:
            log.info("the store of sessions works again")
            self.trouble = None
        self._underway = None
        self._rest_until = time.monotonic() + min(self._portion.rest * seconds, LONGEST_REST)
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
        for place, ending in enumerate(group.endings, begin + len(group.spills)):
            written[ending.birth] = ending.revision + 1
            if place in refused:
                lost.add(ending.birth)
                self._table.departed.went_on_elsewhere(ending.ended.session_id)
        self._urgent |= self._waiting.release(written, lost)

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
        if (version := self._version_at(slot)) is not None:
            version.metrics.snapshots.inc()
        if table.durability[slot] != MEMORY:
            table.durable_index[slot] = spill.step_index
        if spill.let_go and table.parked.get(slot) is spill.data:
            table.parked[slot] = None

    def _let_go(self, slot: int) -> None:
        log.warning("sessions/%s went on elsewhere; it is let go of here", self._table.ids[slot])
        self._metrics.fenced.inc()
        self._lose(slot)

    def _count_failures(self, held: Held, errors: Sequence[CarouselError]) -> None:
        """Outputs that were held back go as errors."""
        if (version := self._version_at(int(held.slots[0]))) is not None:
            for error in errors:
                version.metrics.failed(error.reason)

    def _version_at(self, slot: int) -> LoadedVersion | None:
        ordinal = int(self._table.version[slot])
        return next((one for one in self._versions if one.ordinal == ordinal), None)
