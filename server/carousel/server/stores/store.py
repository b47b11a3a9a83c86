"""The state store: one interface, so that a session outlives its process in any of them.

A handle is the fencing token. Whoever writes says which handle the entry has now (`former`) and
which it has from then on (`handle`): both are the same while an incarnation goes on, differ when
one takes over from another, and `former` is 0 for a session that is new. So a paused or cut-off
server can never write over the work of its successor (compare-and-set, as in Kleppmann's fencing
tokens, with equality in place of order).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

ENDED = 0  # the handle of an entry whose session is over


@dataclass(frozen=True, slots=True)
class Entry:
    """One session at rest, or what is remembered of one that has ended.

    `handle`, 64 bits without a sign, is that of the incarnation that may write, or ENDED.
    `revision`, below 2**63, counts the session's writes, through all of its incarnations.
    `expire_time`, in seconds since the epoch, is when the session ends unless it is written again;
    of an ended one, when it may be forgotten. `data` is the record: opaque to the store.
    """

    session_id: str
    handle: int
    revision: int
    expire_time: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries to write as one group, in columns of one length, each session once.

    `formers[i]` is the handle that the store must have for the session: 0 for one that is absent
    or ended.
    """

    ids: Sequence[str]
    formers: Sequence[int]
    handles: Sequence[int]
    revisions: Sequence[int]
    expire_times: Sequence[float]
    data: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.ids)


class StateStore(Protocol):
    """Where entries lie. Used by one thread at a time; every call may block.

    Every call raises StoreUnavailable when the store can't be reached, is full or broken. Then
    nothing is known of what was written; to write the same batch again is always safe.
    """

    kind: str  # for people: "sqlite", "valkey"

    def write(self, batch: Batch) -> list[int]:
        """Write a batch; when this returns, what was accepted survives a crash of the machine.

        What is absent or ended may be created (`former` 0) or ended again (`handle` ENDED). Over
        what lives, an entry is accepted when the store has `handle` already, at a revision not
        above this one: the very same write again, or a later one; or has `former`, at a revision
        below this one. So who takes over, or ends, refers to all that its predecessor wrote: one
        write more between its look and its own, and it is refused. Returns the places of those
        that were refused, in order.
        """
        ...

    def read(self, ids: Sequence[str]) -> dict[str, Entry]:
        """The entries of these sessions, ended ones too; absent ones are left out."""
        ...

    def page(self, after: str, limit: int) -> list[Entry]:
        """Entries that have not ended, in order of their ids, from behind `after` on."""
        ...

    def expired(self, now: float, limit: int) -> list[Entry]:
        """Entries that have not ended and whose time is up, in no order."""
        ...

    def forget(self, now: float) -> None:
        """Drop ended entries whose time is up."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...
