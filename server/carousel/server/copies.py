"""Copies: sessions as they are between two turns, in columns, for records to be made of them."""

from __future__ import annotations

import functools
from collections.abc import KeysView

import numpy as np

from carousel.server import records
from carousel.server.loaded import LoadedVersion
from carousel.server.records import HEADER, Columns, Details
from carousel.server.table import NO_REPLY, SessionTable
from carousel.server.work import Floats, Ints

_AS_THEY_ARE = (
    *("durability", "state", "rewind_depth", "reply_index"),
    *("ttl", "lifetime_end", "create_time", "last_use", "former_handle", "attach_index"),
)


def columns_of(table: SessionTable, version: LoadedVersion, slots: Ints) -> Columns:
    """Sessions of one version, all of them in its arena; one copy from the device."""
    header = np.zeros(len(slots), HEADER)
    header["digest"] = np.void(version.digest)
    header["width"] = version.arena.width
    header["outputs"] = version.config.output_size
    header["step_index"] = table.next_index[slots]
    for name in _AS_THEY_ARE:
        header[name] = getattr(table, name)[slots]
    own = table.row[slots]
    columns = Columns(
        version=version,
        ids=[table.ids[slot] for slot in slots.tolist()],
        header=header,
        rows=version.arena.read(own).cpu().numpy(),
        outputs=version.replies[own],
        tail=_tail(version.key),
        details={},
        births=table.birth[slots],
        slots=slots,
        formers=table.stored_handle[slots].tolist(),
        handles=table.handle[slots].tolist(),
        revisions=table.revision[slots].tolist(),
        expire_times=table.expire_time(slots).tolist(),
    )
    _add_details(table, columns)
    return columns


@functools.cache
def _tail(version: str) -> bytes:
    return records.tail(version)


def _add_details(table: SessionTable, columns: Columns) -> None:
    """Of those that are more than one row and at most one output."""
    slots, details = columns.slots.tolist(), columns.details
    kept = table.rings.keys(), table.marks.keys(), table.memos.keys(), table.audited.keys()
    for place in _places(slots, *kept):
        if (found := _more_of(table, columns, place, slots[place])) is not None:
            if columns.header["reply_index"][place] == NO_REPLY:
                found.reply = columns.outputs[:0]
            details[place] = found
    for place in _places(slots, table.chunk_replies.slots):
        if (reply := table.chunk_replies.get(slots[place])) is not None:
            plain = Details(columns.rows[place, None], columns.outputs[place, None], columns.tail)
            details.setdefault(place, plain).reply = reply


def _places(slots: list[int], *kept: KeysView[int]) -> list[int]:
    """Where those of the slots are that any of these has."""
    some = set[int]().union(*[one & slots for one in kept if one])
    return [place for place, slot in enumerate(slots) if slot in some] if some else []


def _more_of(table: SessionTable, columns: Columns, place: int, slot: int) -> Details | None:
    """Kept states, bookmarks, the memo of a generation and the audit log, if there are any."""
    ring, marks = table.rings.get(slot), table.marks.get(slot, {})
    memo, log = table.memo_of(slot), table.audited.get(slot)
    kept = {} if ring is None else ring.kept(int(table.next_index[slot]))
    rows = [*kept.values(), *(mark.row for mark in marks.values())]
    if not rows and memo is None and log is None:
        return None
    places = iter(range(1, len(rows) + 1))
    tail = records.tail(
        columns.version.key,
        kept={index: next(places) for index in kept},
        marks={name: (mark.step_index, next(places)) for name, mark in marks.items()},
        memo=memo,
        audit="" if log is None else log.token,
    )
    states: Floats = columns.rows[place, None]
    if rows:
        more = columns.version.arena.read(np.array(rows)).cpu().numpy()
        states = np.concatenate([states, more])
    return Details(states, columns.outputs[place, None], tail)
