"""The hall: what all services share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from carousel.errors import (
    CarouselError,
    QueueFull,
    QuotaExceeded,
    ServerDraining,
    SessionExists,
    SessionFenced,
    StoreUnwritable,
)
from carousel.server.at_rest import AtRest
from carousel.server.claim import Claim
from carousel.server.engine import Engine
from carousel.server.groups import Done
from carousel.server.held import turn as held
from carousel.server.held.keys import Keyring
from carousel.server.held.queue import HeldWork
from carousel.server.loaded import LoadedVersion
from carousel.server.made import Made, Reply
from carousel.server.memo import Memo
from carousel.server.metrics import Metrics
from carousel.server.names import session_key
from carousel.server.notices import Notice
from carousel.server.quotas import UNLIMITED, Quotas
from carousel.server.receipts import unless_received
from carousel.server.registry import Registry
from carousel.server.sessions import Sessions
from carousel.server.settings import Settings
from carousel.server.store import ModelStore
from carousel.server.tenants import party_now
from carousel.server.tracing import trace
from carousel.server.tracing.trace import NO_TRACER, Tracer
from carousel.server.work import NEVER, Answer, Floats, Inputs, Work
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_pb2


@dataclass(slots=True)
class Hall:
    """One server's parts."""

    settings: Settings
    metrics: Metrics
    store: ModelStore
    engine: Engine
    sessions: Sessions
    registry: Registry
    at_rest: AtRest
    keyring: Keyring
    tracer: Tracer = NO_TRACER
    quotas: Quotas = UNLIMITED
    draining: bool = False
    claims: WeakValueDictionary[int, Claim] = field(default_factory=WeakValueDictionary)
    successor: str = ""  # where a drained server's sessions go; empty: to its own address

    def version_of(self, handles: Sequence[int], tenant: str) -> LoadedVersion | None:
        """The version of the tenant's first session that is live; None when none is."""
        table = self.engine.table
        slot = table.first_slot(handles, tenant)
        return None if slot is None else self.registry.by_ordinal(int(table.version[slot]))

    def queued(self, tenant: str) -> int:
        """Items of a tenant that wait, of all models."""
        return sum(one.door.inside_of(tenant) for one in tuple(self.engine.versions))

    def check_quotas(self, version: LoadedVersion, tenant: str, *, items: int, steps: int) -> None:
        """Once for a message, before anything of it waits. Raises QuotaExceeded."""
        if not (tenant and self.quotas.on):
            return
        try:
            if self.quotas.of(tenant).queued_steps is not None:
                self.quotas.check(tenant, "queued_steps", self.queued(tenant), items)
            self.quotas.take_steps(tenant, steps)
        except QuotaExceeded as error:
            version.metrics.failed(error.reason, items)
            raise

    def refuse_when_draining(self) -> None:
        if self.draining:
            raise self.draining_error()

    def draining_error(self) -> ServerDraining:
        where = {"successor": self.successor} if self.successor else {}
        return ServerDraining("the server is shutting down", retry_after=1.0, metadata=where)

    async def resident(self, *ids: str) -> None:
        """Return when the states of sessions are in the arena, of those that are here at all."""
        if self.engine.table.parked:
            await self.stored(lambda done: self.sessions.resident(ids, done))

    async def made(self, make: Callable[[], Made[Reply]]) -> Reply:
        """Make sessions in the engine's thread; the answer leaves once durable ones are in the
        store, and their audit logs have begun: all of them or none.

        One visit makes them and has them stored, where no audit log comes before. They end at once
        when the answer can't reach their caller, who will never know of them.
        """
        made: Made[Reply] | None = None

        def begin(done: Done) -> None:
            nonlocal made
            made = make()
            if made.durable and not made.audited:
                self._secure(made.keys, done)
            else:
                done(None)

        def unmake() -> None:
            if made is not None:
                self.sessions.discard(made.handles)

        try:
            await self.stored(begin)
            assert made is not None
            keys = made.keys
            if made.audited:
                await self._recorded(keys)
                if made.durable:
                    await self.stored(lambda done: self._secure(keys, done))
        except BaseException as error:
            self.engine.post(unmake)
            if made is not None and isinstance(error, SessionFenced):
                raise SessionExists(
                    "a session of this id is in the store", field="session_id"
                ) from None
            raise
        unless_received(lambda: self.engine.post(unmake))
        return made.reply

    async def kept(
        self, change: Callable[..., session_pb2.Session], *args: Any, **kwargs: Any
    ) -> session_pb2.Session:
        """Change a session in the engine's thread; the answer leaves once a durable one is in the
        store.

        One visit does both: between two, the store may say that another server has the session.
        Raises what `change` does, StoreUnavailable, and SessionFenced when the store has another
        incarnation.
        """
        changed: session_pb2.Session | None = None

        def begin(done: Done) -> None:
            nonlocal changed
            changed = change(*args, **kwargs)
            self._secure([session_key(changed)], done)

        await self.stored(begin)
        assert changed is not None
        return changed

    async def secure(self, session_id: str) -> None:
        """Return when a session, as it is now, is in the store if it is durable.

        Raises StoreUnavailable, SessionEnded, and SessionFenced when another server has it.
        """
        await self.stored(lambda done: self._secure([session_id], done))

    def _secure(self, keys: Sequence[str], done: Done) -> None:
        table = self.engine.table
        for key in keys:
            if key not in table.slots:
                ended = table.departed.ended(key)
                raise SessionFenced("another server has it") if ended is None else ended.error()
        self.engine.behind.secure([table.slots[key] for key in keys], done)

    async def _recorded(self, ids: Sequence[str]) -> None:
        """Return when the audit logs of new sessions have begun. Raises StoreUnwritable."""
        table = self.engine.table
        logs = [table.audited.get(table.slots.get(one, -1)) for one in ids]
        await asyncio.wrap_future(self.engine.recorder.writer.ask(lambda: None))
        if any(log is None or log.broken for log in logs):
            raise StoreUnwritable("the audit log can't be written")

    async def stored(self, begin: Callable[[Done], None]) -> None:
        """Call `begin` in the engine's thread, and wait until what it began is done."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def settle(error: CarouselError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        def done(error: CarouselError | None) -> None:
            loop.call_soon_threadsafe(settle, error)

        try:
            await self.engine.call(begin, done)
            await future
        finally:
            future.cancel()  # what comes of it once the caller has gone is nobody's

    def submit(self, version: LoadedVersion, work: Work) -> None:
        """Let a work in and hand it to the engine. Whether there is room was asked before."""
        _trace(version, work)
        work.lane.enter(len(work), work.arrived)
        self.engine.submit(version, work)

    async def run_steps(
        self,
        version: LoadedVersion,
        handle: int,
        index: int,
        inputs: Inputs,
        *,
        tenant: str = "",
        bulk: bool = False,
        deadline: float = NEVER,
        memo: Memo | None = None,
        notices: list[Notice] | None = None,
    ) -> Floats:
        """Step one session alone: inputs [T, ...] -> the last output [1, O].

        Raises the item's error. What the model's health policy has to say is added to `notices`.
        """
        self.check_quotas(version, tenant, items=1, steps=len(inputs))
        lane = version.door.lane(tenant, party=party_now(), bulk=bulk)
        if lane.room() < 1:
            version.metrics.failed(QueueFull.reason)
            raise version.refuse(lane, 1)
        future: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()

        def deliver(answer: Answer) -> None:
            error: CarouselError | None = answer.errors[0][1] if answer.errors else None
            if future.done():
                return
            if notices is not None:
                notices.extend(notice for _, notice in answer.notices)
            if error is None:
                future.set_result(answer.outputs)
            else:
                future.set_exception(error)

        work = Work(
            [handle],
            [index],
            inputs,
            deliver,
            lengths=None if len(inputs) == 1 else np.array([len(inputs)]),
            deadline=deadline,
            arrived=time.monotonic(),
            mode=pb.OUTPUT_MODE_LAST,
            lane=lane,
            memo=memo,
        )
        self.submit(version, work)
        try:
            return await future
        except asyncio.CancelledError:
            work.cancelled = True
            raise

    async def run_held(
        self, version: LoadedVersion, work: HeldWork, *, tenant: str = "", party: str = ""
    ) -> None:
        """Run a work to its end: its rows, outputs and errors say what came of it.

        Raises QueueFull, QuotaExceeded, ModelNotLoaded.
        """
        count = int(work.open.sum())
        if not count:
            return
        steps = int(work.lengths[work.open].sum())
        self.check_quotas(version, tenant, items=count, steps=steps)
        lane = version.door.lane(tenant, party=party)
        if lane.room() < count:
            version.metrics.failed(QueueFull.reason, len(work.lengths))
            raise version.refuse(lane, count)
        _trace(version, work)
        lane.enter(count, work.arrived)
        try:
            await self.engine.call(held.admit, version, work)
            await work.finished
        except asyncio.CancelledError:
            work.cancelled = True
            raise
        finally:
            lane.leave(count, 0)


def _trace(version: LoadedVersion, work: Work | HeldWork) -> None:
    """A work belongs to the trace of its request, and its exemplars name it."""
    work.trace = trace.current.get()
    work.trace.set_model(version.name)
    if (trace_id := trace.exported_id(work.trace)) is not None:
        work.origin = {**(work.origin or {}), "trace_id": trace_id}
