"""The life of sessions: each function runs in the engine's thread, between two turns."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from carousel.errors import (
    InvalidField,
    ModelNotLoaded,
    ModelNotStepwise,
    RewindUnavailable,
    SessionCapacity,
    SessionExists,
    SessionFenced,
)
from carousel.server.engine import Engine
from carousel.server.gatekeeper import reply_of
from carousel.server.loaded import LoadedVersion
from carousel.server.settings import Settings
from carousel.server.table import ACTIVE, QUARANTINED, Ended, Ring, SessionTable
from carousel.server.work import NEVER, Floats, Ints
from carousel.v1 import session_pb2

MAX_REWIND_DEPTH = 64
MAX_FORKS = 10_000
REPLY_MEMORY = 2**30  # bytes of chunks' outputs that are kept for retries
MAX_LIFETIME = 100 * 365 * 86_400.0


@dataclass(slots=True, frozen=True)
class Terms:
    """What a caller asks of a new session. Times in seconds."""

    session_id: str = ""
    ttl: float | None = None
    lifetime: float | None = None
    rewind_depth: int = 0


@dataclass(slots=True, frozen=True)
class Exported:
    """A session's row and what belongs to it."""

    version: LoadedVersion
    step_index: int
    row: torch.Tensor  # [width]
    reply_index: int
    reply: Floats | None  # [steps, O]


class Sessions:
    """Makes, reads, copies and ends sessions; only the engine's thread may call its methods."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine | None = None

    def attach_to(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("no engine yet")
        return self._engine

    @property
    def table(self) -> SessionTable:
        return self.engine.table

    def version_of(self, slot: int) -> LoadedVersion:
        ordinal = int(self.table.version[slot])
        version = next((v for v in self.engine.versions if v.ordinal == ordinal), None)
        if version is None:
            raise ModelNotLoaded("the session's model version was taken out of service")
        return version

    def create(
        self,
        version: LoadedVersion,
        terms: Terms,
        *,
        row: torch.Tensor | None = None,
        step_index: int = 0,
        reply_index: int = 0,
        reply: Floats | None = None,
    ) -> session_pb2.Session:
        """A new session, from the model's initial state or from a given row."""
        slot = self._insert(version, terms)
        rows = self.table.row[slot : slot + 1]
        initial = version.network.initial_rows(1) if row is None else row[None]
        version.arena.write(rows, initial.to(version.arena.device, torch.float32))
        self.table.next_index[slot] = step_index
        if reply is not None and len(reply):
            self._put_reply(version, slot, reply_index, reply)
        return self.describe(slot, with_handle=True)

    def attach(self, session_id: str) -> session_pb2.Session:
        """A new incarnation; the former handle is fenced."""
        slot = self.table.find(session_id)
        self.table.renew_handle(slot)
        self.table.last_use[slot] = time.time()
        return self.describe(slot, with_handle=True)

    def get(self, session_id: str) -> session_pb2.Session:
        ended = self.table.ended(session_id)
        if session_id not in self.table.slots and ended is not None:
            return describe_ended(ended)
        return self.describe(self.table.find(session_id))

    def delete(self, session_id: str, handle: int | None = None) -> None:
        slot = self._find(session_id, handle)
        self.end(slot, session_pb2.END_REASON_CLOSED)

    def discard(self, handles: Sequence[int]) -> None:
        """End sessions of these handles, as far as they are still there."""
        for handle in handles:
            slot = self.table.slot_of(handle)
            if slot is not None:
                self.end(slot, session_pb2.END_REASON_CLOSED)

    def fork(self, session_id: str, ids: Sequence[str]) -> list[session_pb2.Session]:
        """Copies: all or none. `ids` has an empty text where the server may choose."""
        source = self.table.find(session_id)
        version = self.version_of(source)
        self._check_room(version, len(ids))
        taken = [name for name in ids if name in self.table.slots]
        if taken or len(set(filter(None, ids))) < len([name for name in ids if name]):
            raise SessionExists(
                f"ids of copies must be new and different, got {', '.join(taken) or 'one twice'}",
                field="session_ids",
            )
        names = [name or secrets.token_hex(16) for name in ids]
        depth = int(self.table.rewind_depth[source])
        rows = version.allocate(len(ids) * (1 + depth))
        own, rings = rows[: len(ids)], rows[len(ids) :].reshape(len(ids), depth)
        slots = self.table.insert_copies(source, names, own, time.time())
        version.arena.copy(int(self.table.row[source]), own)
        version.replies[own] = version.replies[self.table.row[source]]
        chunk = self.table.chunk_replies.get(source)
        for slot, ring in zip(slots.tolist(), rings, strict=True):
            if depth:
                self.table.rings[slot] = Ring(ring)
            if chunk is not None:  # shared: its rows never change
                self.table.chunk_replies.put(slot, chunk)
        version.sessions += len(ids)
        version.metrics.created.inc(len(ids))
        version.metrics.forks.inc(len(ids))
        return self._describe_copies(slots)

    def _describe_copies(self, slots: Ints) -> list[session_pb2.Session]:
        """Of sessions that differ in their names and handles only."""
        first = self.describe(int(slots[0]), with_handle=True).SerializeToString()
        sessions = []
        for slot, handle in zip(slots.tolist(), self.table.handle[slots].tolist(), strict=True):
            session = session_pb2.Session.FromString(first)
            session.name = f"sessions/{self.table.ids[slot]}"
            session.handle = handle
            sessions.append(session)
        return sessions

    def rewind(
        self, session_id: str, handle: int | None, steps: int | None, step_index: int | None
    ) -> session_pb2.Session:
        """Back to a kept state; ends a quarantine; a new incarnation."""
        slot = self._find(session_id, handle)
        table = self.table
        now = int(table.next_index[slot])
        target = now - (steps or 0) if step_index is None else step_index
        if target != now:
            self._write_back(slot, target)
            table.next_index[slot] = target
            table.forget_reply(slot)
        table.state[slot] = ACTIVE
        table.renew_handle(slot)
        table.last_use[slot] = time.time()
        self.version_of(slot).metrics.rewinds.inc()
        return self.describe(slot, with_handle=True)

    def _write_back(self, slot: int, target: int) -> None:
        ring = self.table.rings.get(slot)
        now = int(self.table.next_index[slot])
        row = ring.find(target) if ring is not None and 0 <= target < now else None
        if ring is None or row is None:
            kept = sorted(i for i in ring.indexes.tolist() if 0 <= i < now) if ring else []
            span = f"steps {kept[0]} to {kept[-1]} and {now}" if kept else f"only step {now}"
            raise RewindUnavailable(
                f"sessions/{self.table.ids[slot]} can go back to {span}, got {target}",
                metadata={"kept_steps": ",".join(map(str, [*kept, now]))},
            )
        arena = self.version_of(slot).arena
        arena.write(self.table.row[slot : slot + 1], arena.read(np.array([row])))

    def reset(self, session_id: str, handle: int | None) -> session_pb2.Session:
        """Back to the initial state and step 0; ends a quarantine; a new incarnation."""
        slot = self._find(session_id, handle)
        version = self.version_of(slot)
        initial = version.network.initial_rows(1).to(version.arena.device, torch.float32)
        version.arena.write(self.table.row[slot : slot + 1], initial)
        self.table.next_index[slot] = 0
        self.table.state[slot] = ACTIVE
        self.table.forget_reply(slot)
        if slot in self.table.rings:
            self.table.rings[slot].indexes[:] = -1
        self.table.renew_handle(slot)
        self.table.last_use[slot] = time.time()
        return self.describe(slot, with_handle=True)

    def export(self, session_id: str) -> Exported:
        slot = self.table.find(session_id)
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
        slot = self.table.find(session_id)
        if ttl is not None:
            self.table.ttl[slot] = self._ttl(ttl)
        self.table.last_use[slot] = time.time()
        return self.describe(slot)

    def sweep(self, now: float) -> None:
        """End sessions whose time is up."""
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
        table.forget_ended(now)
        while table.chunk_replies.bytes > REPLY_MEMORY:
            self._shorten_oldest_reply()

    def _shorten_oldest_reply(self) -> None:
        """Keep only the last output of the chunk that was answered longest ago."""
        slot, reply = self.table.chunk_replies.oldest()
        last = int(self.table.reply_index[slot]) + len(reply) - 1
        self.table.chunk_replies.forget(slot)
        self._put_reply(self.version_of(slot), slot, last, reply[-1:])

    def end_all(self, version: LoadedVersion, reason: session_pb2.EndReason.ValueType) -> None:
        for slot in np.flatnonzero(
            (self.table.version == version.ordinal) & (self.table.state != 0)
        ).tolist():
            self.end(slot, reason)

    def end(
        self, slot: int, reason: session_pb2.EndReason.ValueType, now: float | None = None
    ) -> None:
        """End a session: its row is zeroed, its handle remembered as over."""
        table = self.table
        now = time.time() if now is None else now
        version = self.version_of(slot)
        short = session_pb2.EndReason.Name(reason).removeprefix("END_REASON_")
        steps, age = int(table.next_index[slot]), now - float(table.create_time[slot])
        rows: Ints = table.row[slot : slot + 1].copy()
        ring = table.rings.get(slot)
        if ring is not None:
            rows = np.concatenate([rows, ring.rows])
        ended = Ended(
            session_id=table.ids[slot],
            version_name=version.name,
            reason=reason,
            reason_name=short,
            step_index=steps,
            create_time=float(table.create_time[slot]),
            end_time=now,
        )
        table.remove(slot, ended)
        version.arena.release(rows)
        version.sessions -= 1
        version.metrics.ended[short.lower()].inc()
        version.metrics.session_steps.observe(steps)
        version.metrics.session_lifetime.observe(age)

    def describe(self, slot: int, *, with_handle: bool = False) -> session_pb2.Session:
        table, version = self.table, self.version_of(slot)
        quarantined = table.state[slot] == QUARANTINED
        session = session_pb2.Session(
            name=f"sessions/{table.ids[slot]}",
            model_version=version.name,
            handle=int(table.handle[slot]) if with_handle else 0,
            step_index=int(table.next_index[slot]),
            state=session_pb2.SESSION_STATE_QUARANTINED
            if quarantined
            else session_pb2.SESSION_STATE_ACTIVE,
            durability=session_pb2.DURABILITY_MEMORY,
            rewind_depth=int(table.rewind_depth[slot]),
            state_bytes=version.arena.row_bytes,
        )
        session.ttl.FromNanoseconds(int(table.ttl[slot] * 1e9))
        lifetime = float(table.lifetime_end[slot] - table.create_time[slot])
        if lifetime != NEVER:
            session.lifetime.FromNanoseconds(int(lifetime * 1e9))
        session.create_time.FromNanoseconds(int(table.create_time[slot] * 1e9))
        session.last_use_time.FromNanoseconds(int(table.last_use[slot] * 1e9))
        expire = float(table.expire_time(np.array([slot]))[0])
        session.expire_time.FromNanoseconds(int(expire * 1e9))
        return session

    def _insert(self, version: LoadedVersion, terms: Terms) -> int:
        """A slot, a row and a ring for a new session; nothing is taken when any is refused."""
        if not version.stepwise:
            raise ModelNotStepwise(
                f"{version.name} is bidirectional and needs whole sequences: use Predict"
            )
        if version.retired:
            raise ModelNotLoaded(f"{version.name} was taken out of service")
        session_id = terms.session_id or secrets.token_hex(16)
        if session_id in self.table.slots:
            raise SessionExists(f"sessions/{session_id} is live", field="session_id")
        if terms.rewind_depth > MAX_REWIND_DEPTH:
            raise InvalidField(
                f"rewind_depth must be 0 to {MAX_REWIND_DEPTH}, got {terms.rewind_depth}",
                field="rewind_depth",
            )
        ttl, lifetime = self._ttl(terms.ttl), self._lifetime(terms.lifetime)
        self._check_room(version, 1)
        rows = version.allocate(1 + terms.rewind_depth)
        slot = self.table.insert(
            session_id,
            version=version.ordinal,
            row=int(rows[0]),
            ttl=ttl,
            lifetime=lifetime,
            now=time.time(),
        )
        if terms.rewind_depth:
            self.table.rewind_depth[slot] = terms.rewind_depth
            self.table.rings[slot] = Ring(rows[1:])
        version.sessions += 1
        version.metrics.created.inc()
        return slot

    def _check_room(self, version: LoadedVersion, count: int) -> None:
        if len(self.table) + count > self._settings.max_sessions:
            raise SessionCapacity(
                f"at most {self._settings.max_sessions} sessions fit in, {len(self.table)} live, "
                f"{count} more were asked for",
                field="model",
                retry_after=1.0,
            )

    def _put_reply(self, version: LoadedVersion, slot: int, index: int, reply: Floats) -> None:
        self.table.reply_index[slot] = index
        if len(reply) == 1:
            version.replies[self.table.row[slot]] = reply[0]
        else:
            self.table.chunk_replies.put(slot, reply)

    def _find(self, session_id: str, handle: int | None) -> int:
        slot = self.table.find(session_id)
        if handle is not None and int(self.table.handle[slot]) != handle:
            raise SessionFenced(
                f"{handle:#018x} is not the current handle of sessions/{session_id}"
            )
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


def describe_ended(ended: Ended) -> session_pb2.Session:
    session = session_pb2.Session(
        name=f"sessions/{ended.session_id}",
        model_version=ended.version_name,
        step_index=ended.step_index,
        state=session_pb2.SESSION_STATE_ENDED,
        end_reason=ended.reason,  # type: ignore[arg-type]
        durability=session_pb2.DURABILITY_MEMORY,
    )
    session.create_time.FromNanoseconds(int(ended.create_time * 1e9))
    session.expire_time.FromNanoseconds(int(ended.end_time * 1e9))
    return session
