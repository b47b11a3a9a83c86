"""The session table: a slot for each session, in columns, read for all riders at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from carousel.errors import CarouselError, SessionFenced, SessionNotFound
from carousel.server.audit.log import Log
from carousel.server.departed import Departed, Ended
from carousel.server.handle_index import HandleIndex
from carousel.server.item_errors import Runs
from carousel.server.kept import Mark, Ring
from carousel.server.memo import Memo
from carousel.server.names import owner_of, session_name
from carousel.server.notices import Notices
from carousel.server.owners import OPERATOR, Owners
from carousel.server.replies import ChunkReplies
from carousel.server.work import Handles, Ints

FEW = 16  # handles of a message, of which each is told by itself why it is none

FREE, ACTIVE, QUARANTINED = 0, 1, 2

NO_REPLY = -1
NO_ROW = -1  # of a session that is parked

MEMORY, ASYNC, SYNC = 1, 2, 3  # session_pb2.Durability


class SessionTable:
    """All live sessions, and what is remembered of the others. Only the engine's thread changes it.

    Ids are keys: of the tenant and the session. `tenant` has the tenants' numbers, so that a handle
    of somebody else's is as unknown as one that there never was.

    Times are seconds since the epoch. `tail` and `serving` keep the items of a session in order,
    as in a bakery: an item draws `tail` when it arrives and rides when `serving` reaches it. A line
    belongs to one incarnation: with the handle it ends, and `fences` counts such ends.

    Of a session that is durable, `durable_index` says which steps are in the store,
    `flushed_index` which are there or on their way, `stored_handle` whose they are, and `revision`
    counts the writes; it is `touched` when it changed since it was copied for one. `birth` tells a
    session from the next one in its slot. `former_handle` is whose holder attached at
    `attach_index`: until the next step they may do so again, since the answer may have been lost.
    """

    def __init__(self) -> None:
        self.handle: Handles = np.zeros(0, np.uint64)
        self.state: npt.NDArray[np.int8] = np.zeros(0, np.int8)
        self.version: npt.NDArray[np.int32] = np.zeros(0, np.int32)  # LoadedVersion.ordinal
        self.row: Ints = np.zeros(0, np.int64)
        self.next_index: Ints = np.zeros(0, np.int64)
        self.reply_index: Ints = np.zeros(0, np.int64)  # first step of the reply kept in memory
        self.tail: Ints = np.zeros(0, np.int64)
        self.serving: Ints = np.zeros(0, np.int64)
        self.rewind_depth: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        self.durability: npt.NDArray[np.int8] = np.zeros(0, np.int8)
        self.durable_index: Ints = np.zeros(0, np.int64)
        self.flushed_index: Ints = np.zeros(0, np.int64)
        self.stored_handle: Handles = np.zeros(0, np.uint64)
        self.revision: Ints = np.zeros(0, np.int64)
        self.touched: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.birth: Ints = np.zeros(0, np.int64)
        self.tenant: Ints = np.zeros(0, np.int64)  # whose it is, as in `owners`
        self.bytes: Ints = np.zeros(0, np.int64)  # of its states
        self.former_handle: Handles = np.zeros(0, np.uint64)
        self.attach_index: Ints = np.zeros(0, np.int64)
        self.audit: Ints = np.zeros(0, np.int64)  # number of its audit log; 0: none
        self.audit_from: Ints = np.zeros(0, np.int64)  # step index of the last state there
        self.ttl: npt.NDArray[np.float64] = np.zeros(0)
        self.lifetime_end: npt.NDArray[np.float64] = np.zeros(0)
        self.create_time: npt.NDArray[np.float64] = np.zeros(0)
        self.last_use: npt.NDArray[np.float64] = np.zeros(0)
        self.ids: list[str] = []
        self.slots: dict[str, int] = {}
        self.rings: dict[int, Ring] = {}
        self.marks: dict[int, dict[str, Mark]] = {}  # bookmarks by slot and name
        self.memos: dict[int, tuple[int, Memo]] = {}  # by slot, with the step index they belong to
        self.parked: OrderedDict[int, bytes | None] = OrderedDict()  # records; None: in the store
        self.audited: dict[int, Log] = {}  # audit logs by slot
        self.index = HandleIndex()
        self.owners = Owners()
        self.durables = 0  # sessions that are not of MEMORY
        self.syncs = 0  # sessions of SYNC
        self.chunk_replies = ChunkReplies()
        self.notices = Notices()
        self.departed = Departed()
        self.fences = 0
        self._free: list[int] = []
        self._births = 0

    def __len__(self) -> int:
        return len(self.slots)

    def insert(
        self,
        session_id: str,
        *,
        version: int,
        row: int,
        ttl: float,
        lifetime: float,
        now: float,
        durability: int = MEMORY,
    ) -> int:
        """A new session in a free slot, with a handle; its id must not be taken."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self.index.draw(slot, self.handle)
        self.state[slot] = ACTIVE
        self.version[slot] = version
        self.row[slot] = row
        self.next_index[slot] = 0
        self.reply_index[slot] = NO_REPLY
        self.rewind_depth[slot] = 0
        self.ttl[slot] = ttl
        self.lifetime_end[slot] = now + lifetime
        self.create_time[slot] = self.last_use[slot] = now
        self.durability[slot] = durability
        self._enter(np.array([slot]), [session_id])
        return slot

    def _enter(self, slots: Ints, ids: Sequence[str]) -> None:
        """Give filled slots of one kind and one tenant their ids; the store knows none of them."""
        count, durability = len(slots), int(self.durability[slots[0]])
        self.birth[slots] = np.arange(self._births + 1, self._births + 1 + count)
        self._births += count
        self.tenant[slots] = self.owners.enter(owner_of(ids[0]), count)
        for column in (
            self.bytes,
            self.durable_index,
            self.flushed_index,
            self.stored_handle,
            self.revision,
            self.former_handle,
            self.audit,
        ):
            column[slots] = 0
        self.durables += count * (durability != MEMORY)
        self.syncs += count * (durability == SYNC)
        places = slots.tolist()
        for place, session_id in zip(places, ids, strict=True):
            self.ids[place] = session_id
        self.slots.update(zip(ids, places, strict=True))
        self.departed.begin(ids)

    def insert_copies(self, source: int, ids: Sequence[str], rows: Ints, now: float) -> Ints:
        """New sessions at the very point where `source` is, with handles and rows of their own.

        Nothing here is done for each: a session may become 10,000.
        """
        count = len(ids)
        while len(self._free) < count:
            self._grow()
        slots = np.array(self._free[-count:])
        del self._free[-count:]
        self.index.draw_many(slots, self.handle)
        for column in (
            self.state,
            self.version,
            self.next_index,
            self.reply_index,
            self.rewind_depth,
            self.ttl,
            self.lifetime_end,
            self.durability,
        ):
            column[slots] = column[source]
        self.row[slots] = rows
        self.create_time[slots] = self.last_use[slots] = now
        self._enter(slots, ids)
        return slots

    def remove(self, slot: int, ended: Ended | None) -> None:
        """Free the slot and remember how the session ended; None: it lives on another server.

        The rows are the caller's.
        """
        self._end_line(slot)
        session_id = self.ids[slot]
        del self.slots[session_id]
        self.charge(np.array([slot]), 0)
        self.owners.leave(owner_of(session_id))
        self.durables -= int(self.durability[slot] != MEMORY)
        self.syncs -= int(self.durability[slot] == SYNC)
        self.handle[slot] = 0
        self.state[slot] = FREE
        self.birth[slot] = 0
        self.ids[slot] = ""
        self.chunk_replies.forget(slot)
        self.notices.forget((slot,))
        self.rings.pop(slot, None)
        self.marks.pop(slot, None)
        self.memos.pop(slot, None)
        self.parked.pop(slot, None)
        self._free.append(slot)
        if ended is None:
            self.departed.went_on_elsewhere(session_id)
        else:
            self.departed.end(ended)

    def charge(self, slots: Ints, size: int) -> None:
        """The states of each of these sessions, which are one tenant's, take so many bytes now."""
        more = len(slots) * size - int(self.bytes[slots].sum())
        self.owners.charge(owner_of(self.ids[slots[0]]), more)
        self.bytes[slots] = size

    def stored_as(self, session_id: str) -> tuple[int, ...]:
        """The handles that the store may have of a durable session, if it is as here; else none.

        From any thread: what is read may be a moment old.
        """
        slot = self.slots.get(session_id)
        if slot is None or self.durability[slot] == MEMORY:
            return ()
        return int(self.stored_handle[slot]), int(self.handle[slot])

    def renew_handle(self, slot: int) -> int:
        """Begin a new incarnation: the former handle is fenced."""
        self._end_line(slot)
        return self.index.draw(slot, self.handle)

    def may_go_on(self, slot: int, handle: int) -> bool:
        """Whether this is the current handle, or that of a holder whose attaching was not answered
        as far as anybody knows."""
        if int(self.handle[slot]) == handle:
            return True
        unused = self.next_index[slot] == self.attach_index[slot]
        return bool(unused) and int(self.former_handle[slot]) == handle

    def forget_reply(self, slot: int) -> None:
        self.reply_index[slot] = NO_REPLY
        self.chunk_replies.forget(slot)
        self.notices.forget((slot,))
        self.memos.pop(slot, None)

    def put_memo(self, slot: int, memo: Memo) -> None:
        """What the session, as it is now, remembers of its generation."""
        self.memos[slot] = (int(self.next_index[slot]), memo)

    def memo_of(self, slot: int) -> Memo | None:
        """The session's memo, unless a step was taken since that was none of its generation."""
        step_index, memo = self.memos.get(slot, (-1, None))
        if memo is not None and step_index != self.next_index[slot]:
            del self.memos[slot]
            return None
        return memo

    def find(self, session_id: str) -> int:
        """The slot of a live session. Raises SessionNotFound or SessionEnded."""
        slot = self.slots.get(session_id)
        if slot is None:
            ended = self.departed.ended(session_id)
            if ended is not None:
                raise ended.error()
            raise SessionNotFound(f"there is no session {session_name(session_id)}")
        return slot

    def count(self, version: int, tenant: str) -> int:
        """A tenant's live sessions of a version; from any thread, while the table may grow."""
        number, length = self.owners.number(tenant), min(len(self.tenant), len(self.state))
        length = min(length, len(self.version))
        mine = (self.tenant[:length] == number) & (self.version[:length] == version)
        return int((mine & (self.state[:length] != FREE)).sum())

    def slot_of(self, handle: int, tenant: str = "") -> int | None:
        """The slot that a handle names, if the handle is current and the tenant's."""
        slot = self.index.slot(handle)
        live = handle != 0 and slot < len(self.handle) and self.handle.item(slot) == handle
        if not live or (tenant and int(self.tenant[slot]) != self.owners.number(tenant)):
            return None
        return slot

    def slots_of(
        self, handles: Handles, owner: int | Ints = OPERATOR
    ) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """The slot that each handle names, and whether the handle is current and the owner's.

        `owner` is the number of a tenant, or one for each handle.
        """
        slots = self.index.slots(handles)
        if not len(self.handle):
            return slots, np.zeros(len(slots), np.bool_)
        found = self.handle.take(slots)
        good = (found == handles) & (found != 0)
        if not isinstance(owner, int):
            good &= (self.tenant[slots] == owner) | (owner == OPERATOR)
        elif owner != OPERATOR:
            good &= self.tenant[slots] == owner
        return slots, good

    def first_slot(self, handles: Sequence[int], tenant: str) -> int | None:
        """The slot of the first handle that is current and the tenant's; from any thread."""
        for handle in handles[:FEW]:
            slot = self.slot_of(handle, tenant)
            if slot is not None:
                return slot
        if len(handles) <= FEW:
            return None
        rest = np.fromiter(handles[FEW:], np.uint64)
        slots, good = self.slots_of(rest, self.owners.number(tenant))
        return slots.item(int(good.argmax())) if good.any() else None

    def why_not(self, handle: int, tenant: str = "") -> CarouselError:
        """Why a handle is not one that the tenant can use."""
        session_id = self.departed.session_of(handle, tenant)
        if session_id is None:
            return SessionNotFound(f"no session has the handle {handle:#018x}")
        if session_id in self.slots or self.departed.is_elsewhere(session_id):
            return SessionFenced(
                f"the handle {handle:#018x} is of a former incarnation of "
                f"{session_name(session_id)}: it was attached, rewound, reset or made anew since"
            )
        ended = self.departed.ended(session_id)
        if ended is None:
            return SessionNotFound(f"no session has the handle {handle:#018x}")
        return ended.error()

    def why_none(self, handles: Sequence[int], tenant: str) -> Runs:
        """The same of a whole message; of many, those that it can't know of share one error."""
        if len(handles) <= FEW:
            return [(self.why_not(handle, tenant), 1) for handle in handles]
        unknown: CarouselError = SessionNotFound("no session has this handle")
        runs, told = [], 0
        for item in self.departed.among(handles, tenant):
            runs.append((unknown, item - told))
            runs.append((self.why_not(handles[item], tenant), 1))
            told = item + 1
        return [*runs, (unknown, len(handles) - told)]

    def expire_time(self, slots: Ints) -> npt.NDArray[np.float64]:
        """When each session ends unless it is used before."""
        return np.minimum(self.last_use[slots] + self.ttl[slots], self.lifetime_end[slots])

    def expired(self, now: float) -> Ints:
        """Slots whose time is up."""
        end = np.minimum(self.last_use + self.ttl, self.lifetime_end)
        return np.flatnonzero((end <= now) & (self.state != FREE))

    def _end_line(self, slot: int) -> None:
        """Nobody who waits for this incarnation will ride; who comes next begins a new line."""
        self.serving[slot] = self.tail[slot]
        self.fences += 1
        self.departed.fence(int(self.handle[slot]), self.ids[slot])

    def _grow(self) -> None:
        old = len(self.handle)
        new = max(64, old * 2)
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray):
                grown = np.zeros(new, column.dtype)
                grown[:old] = column
                setattr(self, name, grown)
        self.index.grow(self.handle)
        self.ids.extend([""] * (new - old))
        self._free.extend(range(new - 1, old - 1, -1))
