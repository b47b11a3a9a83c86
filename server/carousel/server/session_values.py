"""Sessions as messages: described from the table, from a record, or after their end."""

from __future__ import annotations

import numpy as np

from carousel.server.departed import Ended
from carousel.server.loaded import LoadedVersion
from carousel.server.names import owner_of, session_name, shown
from carousel.server.records import Record
from carousel.server.table import NO_ROW, QUARANTINED, SessionTable
from carousel.server.work import NEVER
from carousel.v1 import session_pb2


def describe(
    table: SessionTable, version: LoadedVersion, slot: int, *, with_handle: bool = False
) -> session_pb2.Session:
    """A session that is here."""
    session = session_pb2.Session(
        name=session_name(table.ids[slot]),
        tenant=owner_of(table.ids[slot]),
        model_version=version.name,
        handle=int(table.handle[slot]) if with_handle else 0,
        step_index=int(table.next_index[slot]),
        durable_index=int(table.durable_index[slot]),
        state=_state(int(table.state[slot])),
        durability=int(table.durability[slot]),  # type: ignore[arg-type]
        rewind_depth=int(table.rewind_depth[slot]),
        state_bytes=version.arena.row_bytes,
        tier=_tier(table, slot),
        bookmarks=[
            session_pb2.Bookmark(name=name, step_index=mark.step_index)
            for name, mark in sorted(table.marks.get(slot, {}).items())
        ],
        audited=slot in table.audited,
    )
    lifetime_end = float(table.lifetime_end[slot])
    _set_times(
        session,
        ttl=float(table.ttl[slot]),
        create_time=float(table.create_time[slot]),
        last_use=float(table.last_use[slot]),
        lifetime_end=lifetime_end,
        expire_time=float(table.expire_time(np.array([slot]))[0]),
    )
    return session


def describe_record(record: Record) -> session_pb2.Session:
    """A session at rest in the store."""
    session = session_pb2.Session(
        name=session_name(record.session_id),
        tenant=owner_of(record.session_id),
        model_version=shown(record.model_version),
        step_index=record.step_index,
        durable_index=record.step_index,
        state=_state(record.state),
        durability=record.durability,  # type: ignore[arg-type]
        rewind_depth=record.rewind_depth,
        state_bytes=record.rows.shape[1] * record.rows.itemsize,
        tier=session_pb2.SESSION_TIER_STORE,
        bookmarks=[
            session_pb2.Bookmark(name=name, step_index=index)
            for name, (index, _) in sorted(record.marks.items())
        ],
        audited="audit" in record.more,
    )
    _set_times(
        session,
        ttl=record.ttl,
        create_time=record.create_time,
        last_use=record.last_use,
        lifetime_end=record.lifetime_end,
        expire_time=record.expire_time,
    )
    return session


def describe_ended(ended: Ended) -> session_pb2.Session:
    """A session that is over."""
    session = session_pb2.Session(
        name=session_name(ended.session_id),
        tenant=owner_of(ended.session_id),
        model_version=shown(ended.version_name),
        step_index=ended.step_index,
        state=session_pb2.SESSION_STATE_ENDED,
        end_reason=ended.reason,  # type: ignore[arg-type]
        durability=ended.durability,  # type: ignore[arg-type]
        audited=ended.audited,
    )
    session.create_time.FromNanoseconds(int(ended.create_time * 1e9))
    session.expire_time.FromNanoseconds(int(ended.end_time * 1e9))
    return session


def end_reason(reason: int) -> str:
    """As in `CLOSED`."""
    return session_pb2.EndReason.Name(reason).removeprefix("END_REASON_")  # type: ignore[arg-type]


def _state(state: int) -> session_pb2.SessionState.ValueType:
    if state == QUARANTINED:
        return session_pb2.SESSION_STATE_QUARANTINED
    return session_pb2.SESSION_STATE_ACTIVE


def _tier(table: SessionTable, slot: int) -> session_pb2.SessionTier.ValueType:
    if table.row[slot] != NO_ROW:
        return session_pb2.SESSION_TIER_DEVICE
    if table.parked.get(slot) is not None:
        return session_pb2.SESSION_TIER_HOST
    return session_pb2.SESSION_TIER_STORE


def _set_times(
    session: session_pb2.Session,
    *,
    ttl: float,
    create_time: float,
    last_use: float,
    lifetime_end: float,
    expire_time: float,
) -> None:
    session.ttl.FromNanoseconds(int(ttl * 1e9))
    if lifetime_end != NEVER:
        session.lifetime.FromNanoseconds(int((lifetime_end - create_time) * 1e9))
    session.create_time.FromNanoseconds(int(create_time * 1e9))
    session.last_use_time.FromNanoseconds(int(last_use * 1e9))
    session.expire_time.FromNanoseconds(int(expire_time * 1e9))
