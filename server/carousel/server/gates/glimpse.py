"""A glimpse: one session at one moment, with everything that its inspection needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from carousel.server import records
from carousel.server.gates.watch import Part, Watch, Watches
from carousel.server.loaded import LoadedVersion
from carousel.server.names import session_key
from carousel.server.records import Record
from carousel.server.session_values import describe_record
from carousel.server.sessions import Sessions
from carousel.server.table import NO_ROW
from carousel.server.work import Floats
from carousel.v1 import session_pb2


@dataclass(slots=True, frozen=True)
class Past:
    """The latest steps of a watched session, one after the other."""

    parts: Sequence[Part]
    before: Floats | None  # the output [O] before the first part, where it is known
    after: torch.Tensor  # [width], the state that they led to


@dataclass(slots=True, frozen=True)
class Glimpse:
    """Neither a row nor a record: the state is in the store only."""

    session: session_pb2.Session
    version: LoadedVersion
    row: torch.Tensor | None = None  # [width]
    record: bytes | None = None
    past: Past | None = None
    until: float | None = None  # of the watch, seconds since the epoch

    def state(self) -> torch.Tensor:
        """The present row [width]."""
        if self.row is not None:
            return self.row
        assert self.record is not None
        record = records.decode(session_key(self.session), self.record)
        assert isinstance(record, Record)
        return torch.from_numpy(record.rows[0].copy())


def look(sessions: Sessions, watches: Watches, session_id: str, *, watch: bool) -> Glimpse:
    """A session that is here; for the engine's thread.

    Raises SessionNotFound, SessionEnded, ModelNotLoaded, WatchCapacity.
    """
    table = sessions.table
    slot = table.find(session_id)
    version = sessions.version_of(slot)
    watched = watches.watch(slot) if watch else None
    here = table.row[slot] != NO_ROW
    return Glimpse(
        session=sessions.describe(slot),
        version=version,
        row=version.arena.read(table.row[slot : slot + 1])[0].cpu() if here else None,
        record=table.parked.get(slot),
        past=None if watched is None else _past(watched, version, int(table.next_index[slot])),
        until=None if watched is None else watched.until,
    )


def of_record(record: Record, version: LoadedVersion) -> Glimpse:
    """A session that is in the store."""
    row = torch.from_numpy(record.rows[0].copy())
    return Glimpse(describe_record(record), version, row)


def _past(watch: Watch, version: LoadedVersion, index: int) -> Past | None:
    """What is known of the steps before this index."""
    if watch.version is not version or watch.after is None or watch.parts[-1].end != index:
        return None
    return Past(tuple(watch.parts), watch.before, watch.after)
