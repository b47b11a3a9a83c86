"""The life of sessions: each function runs in the engine's thread, between two turns."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from carousel.errors import (
    DurabilityUnsupported,
    InvalidField,
    SessionExists,
    SessionFenced,
    StepsLost,
)
from carousel.server.departed import Ended
from carousel.server.forks import Forks
from carousel.server.kept import Ring
from carousel.server.loaded import LoadedVersion
from carousel.server.moves import check_open
from carousel.server.names import key_of, owner_of, session_name
from carousel.server.records import Record
from carousel.server.repeats import reply_of
from carousel.server.session_values import describe_ended, end_reason
from carousel.server.stores import Entry
from carousel.server.table import (
    ASYNC,
    MEMORY,
    NO_ROW,
    QUARANTINED,
    SYNC,
)
from carousel.server.work import NEVER, Floats
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb

MAX_REWIND_DEPTH = 64
MAX_LIFETIME = 100 * 365 * 86_400.0
DURABILITIES = {"memory": MEMORY, "async": ASYNC, "sync": SYNC}


@dataclass(slots=True, frozen=True)
class Terms:
    """What a caller asks of a new session. Times in seconds."""

    session_id: str = ""
    tenant: str = ""
    ttl: float | None = None
    lifetime: float | None = None
    rewind_depth: int = 0
    durability: int = 0  # session_pb2.Durability; 0: the server's default
    audit: bool = False


@dataclass(slots=True, frozen=True)
class Exported:
    """A session's row and what belongs to it."""

    version: LoadedVersion
    step_index: int
    row: torch.Tensor  # [width]
    reply_index: int
    reply: Floats | None  # [steps, O]


class Sessions(Forks):
    """Makes, reads and ends sessions; only the engine's thread may call its methods."""

    def create(
        self,
        version: LoadedVersion,
        terms: Terms,
        *,
        row: torch.Tensor | None = None,
        step_index: int = 0,
        reply_index: int = 0,
        reply: Floats | None = None,
        event: pb.AuditEvent.ValueType = pb.AUDIT_EVENT_CREATED,
    ) -> session_pb2.Session:
        """A new session, from the model's initial state or from a given row."""
        slot = self._insert(version, terms)
        rows = self.table.row[slot : slot + 1]
        initial = version.network.initial_rows(1) if row is None else row[None]
        version.arena.write(rows, initial.to(version.arena.device, torch.float32))
        self.table.next_index[slot] = step_index
        if reply is not None and len(reply):
            self.put_reply(version, slot, reply_index, reply)
        if terms.audit:
            self.engine.recorder.begin(np.array([slot]), version, event)
        return self.describe(slot, with_handle=True)

    def restore(
        self, version: LoadedVersion, record: Record, entry: Entry, handle: int | None
    ) -> session_pb2.Session:
        """A session from its record, as a new incarnation; the store must hear of it next.

        `handle` is that of a holder who goes on.
        """
        if record.session_id in self.table.slots:
            return self.attach(record.session_id, handle)
        check_open(version)
        self.check_room(version, 1)
        rows = 1 + record.rewind_depth + len(record.marks)
        self.check_quotas(owner_of(record.session_id), version, 1, rows)
        table = self.table
        slot = table.insert(
            record.session_id,
            version=version.ordinal,
            row=NO_ROW,
            ttl=record.ttl,
            lifetime=NEVER,
            now=self.now(),
            durability=record.durability,
        )
        for name in ("state", "rewind_depth", "lifetime_end", "create_time"):
            getattr(table, name)[slot] = getattr(record, name)
        table.next_index[slot] = table.flushed_index[slot] = record.step_index
        table.durable_index[slot] = record.step_index
        table.stored_handle[slot], table.revision[slot] = entry.handle, entry.revision
        table.former_handle[slot] = handle or 0
        table.attach_index[slot] = record.step_index
        version.sessions += 1
        try:
            self.fill(version, slot, record)
        except BaseException:
            self._vacate(slot, version, None)
            raise
        if token := record.more.get("audit"):
            restored = pb.AUDIT_EVENT_RESTORED
            self.engine.recorder.begin(np.array([slot]), version, restored, token=token)
        version.metrics.restores.inc()
        return self.describe(slot, with_handle=True)

    def attach(
        self, session_id: str, handle: int | None = None, known: int = 0
    ) -> session_pb2.Session:
        """A new incarnation; the former handle is fenced."""
        slot = self.at(self.table.find(session_id))
        if handle is not None and not self.table.may_go_on(slot, handle):
            raise SessionFenced(
                f"{handle:#018x} is not the current handle of {session_name(session_id)}"
            )
        index = int(self.table.next_index[slot])
        if known > index:
            raise steps_lost(session_id, known, index)
        session = self._renewed(slot, None)
        self.table.former_handle[slot], self.table.attach_index[slot] = handle or 0, index
        return session

    def get(self, session_id: str) -> session_pb2.Session:
        ended = self.table.departed.ended(session_id)
        if session_id not in self.table.slots and ended is not None:
            return describe_ended(ended)
        return self.describe(self.table.find(session_id))

    def delete(self, session_id: str, handle: int | None = None) -> None:
        slot = self.find(session_id, handle)
        self.end(slot, session_pb2.END_REASON_CLOSED)

    def discard(self, handles: Sequence[int]) -> None:
        """End sessions of these handles, as far as they are still there."""
        for handle in handles:
            slot = self.table.slot_of(handle)
            if slot is not None:
                self.engine.recorder.discard(slot)
                self.end(slot, session_pb2.END_REASON_CLOSED)

    def export(self, session_id: str) -> Exported:
        slot = self.at(self.table.find(session_id))
        version = self.version_of(slot)
        reply = reply_of(self.table, version, slot)
        return Exported(
            version=version,
            step_index=int(self.table.next_index[slot]),
            row=version.arena.read(self.table.row[slot : slot + 1])[0].cpu(),
            reply_index=max(int(self.table.reply_index[slot]), 0),
            reply=reply.copy() if len(reply) else None,
        )

    def touch(self, session_id: str, ttl: float | None) -> session_pb2.Session:
        slot = self.at(self.table.find(session_id))
        if ttl is not None:
            self.table.ttl[slot] = self._ttl(ttl)
        self._used(slot)
        return self.describe(slot)

    def sweep(self, now: float) -> None:
        """End sessions whose time is up, and let go of replies above what is kept."""
        table = self.table
        for slot in table.expired(now).tolist():
            if table.tail[slot] != table.serving[slot] and table.lifetime_end[slot] > now:
                continue  # its steps are waiting: not idle
            reason = session_pb2.END_REASON_IDLE
            if table.lifetime_end[slot] <= now:
                reason = session_pb2.END_REASON_LIFETIME
            elif table.state[slot] == QUARANTINED:
                reason = session_pb2.END_REASON_QUARANTINED
            self.end(slot, reason, now)
        table.departed.forget(now)
        while table.chunk_replies.full:
            self._shorten_oldest_reply()

    def _shorten_oldest_reply(self) -> None:
        """Keep only the last output of the chunk that was answered longest ago."""
        slot, reply = self.table.chunk_replies.oldest()
        last = int(self.table.reply_index[slot]) + len(reply) - 1
        self.table.chunk_replies.forget(slot)
        self.put_reply(self.version_of(slot), slot, last, reply[-1:])

    def end_all(self, version: LoadedVersion, reason: session_pb2.EndReason.ValueType) -> None:
        for slot in np.flatnonzero(
            (self.table.version == version.ordinal) & (self.table.state != 0)
        ).tolist():
            self.end(slot, reason)

    def end_volatile(self) -> None:
        """End the sessions that live in memory only: the server goes."""
        for slot in np.flatnonzero(
            (self.table.durability == MEMORY) & (self.table.state != 0)
        ).tolist():
            self.end(slot, session_pb2.END_REASON_DRAINED)

    def end(
        self, slot: int, reason: session_pb2.EndReason.ValueType, now: float | None = None
    ) -> None:
        """End a session: its row is zeroed, its handle remembered as over."""
        table = self.table
        now = self.now() if now is None else now
        version = self.version_of(slot)
        steps, age = int(table.next_index[slot]), now - float(table.create_time[slot])
        ended = Ended(
            session_id=table.ids[slot],
            version_name=version.key,
            reason=reason,
            reason_name=end_reason(reason),
            step_index=steps,
            create_time=float(table.create_time[slot]),
            end_time=now,
            durability=int(table.durability[slot]),
            audited=slot in table.audited,
        )
        self.engine.behind.ended(slot, ended)
        self.engine.recorder.end(slot, reason, now)
        self._vacate(slot, version, ended)
        version.metrics.session_ended(ended.reason_name.lower(), steps=steps, age=age)

    def lose(self, slot: int) -> None:
        """Let go of a session that another server has taken over."""
        self.engine.recorder.lose(slot)
        self._vacate(slot, self.version_of(slot), None)

    def _vacate(self, slot: int, version: LoadedVersion, ended: Ended | None) -> None:
        rows = np.array(self.rows_of(slot), np.int64)
        self.table.remove(slot, ended)
        version.arena.release(rows)
        version.sessions -= 1

    def _durability(self, wanted: int) -> int:
        """The class that a session gets. Raises DurabilityUnsupported, StoreUnavailable."""
        store = self.engine.behind.store
        default = MEMORY
        if store is not None:
            default = DURABILITIES[self._settings.default_durability]
        durability = wanted or default
        if durability not in DURABILITIES.values():
            raise InvalidField(
                f"durability must be MEMORY, ASYNC or SYNC, got {wanted}", field="durability"
            )
        if durability != MEMORY:
            if store is None:
                raise DurabilityUnsupported(
                    "this server has no store of sessions: durability must be MEMORY"
                )
            self.engine.behind.refuse_when_troubled()
        return durability

    def _insert(self, version: LoadedVersion, terms: Terms) -> int:
        """A slot, a row and a ring for a new session; nothing is taken when any is refused."""
        check_open(version)
        session_id = key_of(terms.tenant, terms.session_id or secrets.token_hex(16))
        if session_id in self.table.slots:
            raise SessionExists(f"{session_name(session_id)} is live", field="session_id")
        if terms.rewind_depth > MAX_REWIND_DEPTH:
            raise InvalidField(
                f"rewind_depth must be 0 to {MAX_REWIND_DEPTH}, got {terms.rewind_depth}",
                field="rewind_depth",
            )
        ttl, lifetime = self._ttl(terms.ttl), self._lifetime(terms.lifetime)
        durability = self._durability(terms.durability)
        self.check_room(version, 1)
        self.check_quotas(terms.tenant, version, 1, 1 + terms.rewind_depth)
        rows = self.allocate(version, 1 + terms.rewind_depth)
        slot = self.table.insert(
            session_id,
            version=version.ordinal,
            row=int(rows[0]),
            ttl=ttl,
            lifetime=lifetime,
            now=self.now(),
            durability=durability,
        )
        self.take_over_ends([session_id])
        if terms.rewind_depth:
            self.table.rewind_depth[slot] = terms.rewind_depth
            self.table.rings[slot] = Ring(rows[1:])
        self.charge(slot, version)
        version.sessions += 1
        version.metrics.created.inc()
        return slot

    def _ttl(self, ttl: float | None) -> float:
        if ttl is None:
            return self._settings.default_ttl
        if not 0 < ttl <= self._settings.max_ttl:
            raise InvalidField(
                f"ttl must be above 0 and at most {self._settings.max_ttl:g} s, got {ttl:g} s",
                field="ttl",
            )
        return ttl

    @staticmethod
    def _lifetime(lifetime: float | None) -> float:
        if lifetime is None:
            return NEVER
        if not 0 < lifetime <= MAX_LIFETIME:
            raise InvalidField(
                f"lifetime must be above 0 and at most {MAX_LIFETIME:g} s, got {lifetime:g} s",
                field="lifetime",
            )
        return lifetime


def steps_lost(session_id: str, known: int, found: int) -> StepsLost:
    return StepsLost(
        f"the caller knows {known} durable steps of {session_name(session_id)}, there are {found}",
        metadata={"durable_index": str(found)},
        field="durable_index",
    )
