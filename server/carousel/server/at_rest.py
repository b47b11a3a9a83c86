"""Sessions at rest: those that are in the store and not on this server, found and brought back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from carousel.errors import (
    CarouselError,
    ModelNotLoaded,
    SessionAtRest,
    SessionFenced,
    SessionNotFound,
    SnapshotMismatch,
    StoreUnavailable,
)
from carousel.server import records
from carousel.server.departed import Ended
from carousel.server.loaded import LoadedVersion
from carousel.server.metrics import NONE, Metrics
from carousel.server.names import ModelRef, session_name
from carousel.server.records import Record
from carousel.server.registry import Registry
from carousel.server.session_values import end_reason
from carousel.server.sessions import steps_lost
from carousel.server.stores import ENDED, Batch, Entry, StateStore
from carousel.server.table import MEMORY, QUARANTINED
from carousel.v1 import session_pb2

log = logging.getLogger("carousel.store")

T = TypeVar("T")

SWEPT_AT_ONCE = 500
PAGE = 200


class AtRest:
    """Reads the store beside the engine, in a thread of its own; for the event loop.

    Every method raises StoreUnavailable. Without a store nothing is ever at rest.
    """

    def __init__(
        self,
        store: StateStore | None,
        registry: Registry,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "carousel-at-rest")

    async def _run(self, function: Callable[[StateStore], T]) -> T:
        assert self._store is not None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, self._store)

    async def close(self) -> None:
        if self._store is not None:
            await self._run(lambda store: store.close())
        self._thread.shutdown(wait=False)

    def fetch(
        self, ids: Sequence[str], found: Callable[[dict[str, Entry] | CarouselError], None]
    ) -> None:
        """Read entries and hand them to `found`, in the thread of the store; for any thread."""
        store = self._store
        assert store is not None

        def read() -> None:
            try:
                found(store.read(ids))
            except CarouselError as error:
                found(error)
            except Exception as error:  # a bug must not leave anybody waiting
                log.exception("sessions could not be read")
                found(StoreUnavailable(f"a fault of the server: {type(error).__name__}"))

        self._thread.submit(read)

    async def entry(self, session_id: str) -> Entry | None:
        if self._store is None:
            return None
        return (await self._run(lambda store: store.read([session_id]))).get(session_id)

    async def find(self, session_id: str) -> Record | Ended | None:
        """What the store knows of a session; None for nothing that would survive."""
        entry = await self.entry(session_id)
        if entry is None:
            return None
        record = self._decode(entry)
        return None if isinstance(record, Record) and record.durability == MEMORY else record

    async def refuse(self, session_id: str, error: CarouselError) -> CarouselError:
        """Why a session that is not here can't be used: the error, or a better one."""
        try:
            found = await self.find(session_id)
        except CarouselError as failure:
            return failure
        if isinstance(found, Ended):
            return found.error()
        if found is None:
            return error
        return SessionAtRest(
            f"{session_name(session_id)} is in the store only: AttachSession brings it back",
            metadata={"step_index": str(found.step_index)},
        )

    async def to_restore(
        self, session_id: str, handle: int | None, known: int
    ) -> tuple[LoadedVersion, Record, Entry]:
        """A session that can be brought back, with everything checked.

        Raises what AttachSession says.
        """
        entry = await self.entry(session_id)
        try:
            return self._check(session_id, entry, handle, known)
        except CarouselError as error:
            self._metrics.restore_failed(error, self._model_of(entry))
            raise

    async def claimed(
        self, ids: Sequence[str], handle: int
    ) -> list[tuple[LoadedVersion, Record, Entry]]:
        """Those of these sessions that can be brought back by who has this handle."""
        if self._store is None:
            return []
        found = []
        for key, entry in (await self._run(lambda store: store.read(ids))).items():
            with contextlib.suppress(CarouselError):
                found.append(self._check(key, entry, handle, 0))
        return found

    def _model_of(self, entry: Entry | None) -> str:
        """The model of an entry, as far as it can be read."""
        try:
            found = None if entry is None else self._decode(entry)
        except CarouselError:
            return NONE
        return ModelRef.of_version(found.model_version).model if isinstance(found, Record) else NONE

    def _check(
        self, session_id: str, entry: Entry | None, handle: int | None, known: int
    ) -> tuple[LoadedVersion, Record, Entry]:
        record = None if entry is None else self._decode(entry)
        if isinstance(record, Ended):
            raise record.error()
        if entry is None or record is None or record.durability == MEMORY:
            if known:
                raise steps_lost(session_id, known, 0)
            raise SessionNotFound(f"there is no session {session_name(session_id)}")
        if handle is not None and not record.may_go_on(handle, entry.handle):
            raise SessionFenced(
                f"{handle:#018x} is not the current handle of {session_name(session_id)}"
            )
        if record.step_index < known:
            raise steps_lost(session_id, known, record.step_index)
        if record.expire_time <= self._clock():
            raise self._over(record).error()
        return self.version_of(record), record, entry

    def version_of(self, record: Record) -> LoadedVersion:
        """Raises ModelNotLoaded, SnapshotMismatch."""
        version = self._registry.serving(ModelRef.of_version(record.model_version))
        if not version.stepwise:
            raise ModelNotLoaded(f"{version.name} takes no sessions")
        if version.digest != record.digest or version.arena.width != record.rows.shape[1]:
            raise SnapshotMismatch(
                f"{session_name(record.session_id)} is of another {version.name} than the one in "
                "service"
            )
        return version

    def _decode(self, entry: Entry) -> Record | Ended:
        return records.decode(entry.session_id, entry.data)

    def _over(self, record: Record) -> Ended:
        """How a session ended whose time ran out while it was at rest."""
        reason = session_pb2.END_REASON_IDLE
        if record.lifetime_end <= record.expire_time:
            reason = session_pb2.END_REASON_LIFETIME
        elif record.state == QUARANTINED:
            reason = session_pb2.END_REASON_QUARANTINED
        return self._ended(record, reason)

    def _ended(self, record: Record, reason: session_pb2.EndReason.ValueType) -> Ended:
        return Ended(
            session_id=record.session_id,
            version_name=record.model_version,
            reason=reason,
            reason_name=end_reason(reason),
            step_index=record.step_index,
            create_time=record.create_time,
            end_time=min(record.expire_time, self._clock()),
            durability=record.durability,
        )

    async def end(self, session_id: str, handle: int | None) -> None:
        """Close a session. Raises SessionNotFound, SessionEnded, SessionFenced."""
        entry = await self.entry(session_id)
        record = None if entry is None else self._decode(entry)
        if isinstance(record, Ended):
            raise record.error()
        if entry is None or record is None:
            raise SessionNotFound(f"there is no session {session_name(session_id)}")
        if handle is not None and handle != entry.handle:
            raise SessionFenced(
                f"{handle:#018x} is not the current handle of {session_name(session_id)}"
            )
        ended = self._ended(record, session_pb2.END_REASON_CLOSED)
        if not await self._bury([(entry, ended)]):
            raise SessionFenced(f"{session_name(session_id)} went on elsewhere just now")

    async def _bury(self, over: list[tuple[Entry, Ended]]) -> int:
        """Write down the ends of sessions; gives how many do not live on elsewhere."""
        batch = Batch(
            ids=[entry.session_id for entry, _ in over],
            formers=[entry.handle for entry, _ in over],
            handles=[ENDED] * len(over),
            revisions=[entry.revision + 1 for entry, _ in over],
            expire_times=[ended.end_time + 3600.0 for _, ended in over],
            data=[records.encode_ended(ended) for _, ended in over],
        )
        refused = await self._run(lambda store: store.write(batch))
        buried = [ended for place, (_, ended) in enumerate(over) if place not in set(refused)]
        for ended in buried:
            self._metrics.session_ended(
                ModelRef.of_version(ended.version_name).model,
                ended.reason_name.lower(),
                steps=ended.step_index,
                age=ended.end_time - ended.create_time,
            )
        return len(buried)

    async def page(
        self,
        after: str,
        limit: int,
        *,
        prefix: str,
        until: str | None,
        wanted: Callable[[Record], bool],
    ) -> list[Record]:
        """The first sessions in order of their ids, behind `after`, up to `until`, if any.

        All ids that begin with `prefix` lie side by side; what others there are is not looked at.
        """
        found: list[Record] = []
        after = max(after, prefix)
        while self._store is not None and len(found) < limit:
            entries = await self._page(after)
            mine = [entry for entry in entries if entry.session_id.startswith(prefix)]
            found += [one for entry in mine if (one := self._live(entry)) and wanted(one)]
            if len(mine) < PAGE or (until is not None and mine[-1].session_id >= until):
                break
            after = mine[-1].session_id
        return [one for one in found if until is None or one.session_id <= until][:limit]

    async def _page(self, after: str) -> list[Entry]:
        return await self._run(lambda store: store.page(after, PAGE))

    def _live(self, entry: Entry) -> Record | None:
        """A session that would survive; None for all else."""
        try:
            record = self._decode(entry)
        except CarouselError as error:
            log.error("%s", error.message)
            return None
        return record if isinstance(record, Record) and record.durability != MEMORY else None

    async def sweep(self, is_here: Callable[[str], bool]) -> None:
        """End sessions at rest whose time is up; the engine sees to those that are here."""
        if self._store is None:
            return
        now = self._clock()
        try:
            entries = await self._run(lambda store: store.expired(now, SWEPT_AT_ONCE))
            over = [one for entry in entries if (one := self._expired(entry, is_here)) is not None]
            if over:
                count = await self._bury(over)
                log.info("%d sessions at rest ended: their time was up", count)
            await self._run(lambda store: store.forget(now))
        except StoreUnavailable as error:
            log.debug("the store could not be swept: %s", error.message)

    def _expired(self, entry: Entry, is_here: Callable[[str], bool]) -> tuple[Entry, Ended] | None:
        """An entry and how it ended; of a spilled session of MEMORY too, whose server is gone."""
        if is_here(entry.session_id):
            return None
        try:
            record = self._decode(entry)
        except CarouselError as error:
            log.error("%s", error.message)
            return None
        return None if isinstance(record, Ended) else (entry, self._over(record))
