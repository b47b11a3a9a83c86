"""Promotion: a result becomes a version, is loaded, and an alias moves to it.

Sessions stay on the version that they began with. The new one is loaded before the alias moves,
so that there is no moment at which a new session finds it not in service.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from carousel.errors import CarouselError, VersionExists
from carousel.model import digest
from carousel.server.locks import try_lock
from carousel.server.names import ModelRef
from carousel.server.staging import writing
from carousel.server.store import DEFAULT_ALIAS, ModelStore
from carousel.server.training.records import JobRecord, Object
from carousel.server.uploads import to_end
from carousel.server.version import StoredVersion

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # while others promote
PROMOTING = ".promoting"  # in the store; locked by who promotes


class Loader(Protocol):
    """What promotion needs of the registry."""

    async def load(self, model: str, number: int) -> None: ...


class Promotion:
    """Brings the folders of jobs into the store."""

    def __init__(self, store: ModelStore, registry: Loader) -> None:
        self._store = store
        self._registry = registry
        self._queue: deque[object] = deque()  # for the turn, of this server

    @asynccontextmanager
    async def turn(
        self, *, meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[None]:
        """One promotion at a time, from asking what serves to moving the alias, of all servers.

        `meanwhile` is called again and again while others have their turn; what it raises ends the
        wait. Raises StoreUnwritable.
        """
        ticket = object()
        self._queue.append(ticket)
        try:
            with ExitStack() as held:
                take = partial(try_turn, self._store.root, held)
                while self._queue[0] is not ticket or not await to_end(take):
                    if meanwhile is not None:
                        await meanwhile()
                    await asyncio.sleep(LOOK_SECONDS)  # a lock rings no bell
                yield
        finally:
            self._queue.remove(ticket)

    def baseline(self, model: str, alias: str) -> Path | None:
        """The folder of the version that a new one has to beat; None when there is none yet."""
        if not (model and alias):
            return None
        try:
            return self._store.resolve(ModelRef(model, alias=alias)).folder
        except CarouselError:
            return None

    async def add(
        self, folder: Path, model: str, alias: str, *, announce: Callable[[int], None]
    ) -> StoredVersion:
        """Make a version of a folder and move the alias to it.

        `announce` keeps the number that it is about to get, before it gets it. Raises
        WeightsInvalid, StoreUnwritable, VersionExists.
        """
        while True:
            number = await asyncio.to_thread(self._store.check_free, model, 0)
            await asyncio.to_thread(announce, number)
            try:
                version = await to_end(
                    lambda n=number: self._store.add(model, folder, version=n, promoted=True),  # type: ignore[misc]
                    final=True,
                )
                break
            except VersionExists:
                continue  # somebody else took the number just now
        await self.serve(version, alias)
        return version

    async def finish(self, folder: Path, model: str, number: int, alias: str) -> bool:
        """Go on with an `add` that a crash cut off; False when its version did not come in."""
        try:
            version = await asyncio.to_thread(self._store.version, model, number)
        except CarouselError:
            return False
        if await asyncio.to_thread(digest, version.folder) != await asyncio.to_thread(
            digest, folder
        ):
            return False
        await self.serve(version, alias)
        return True

    async def serve(self, version: StoredVersion, alias: str) -> None:
        """Load it where new sessions will ask for it, then move the alias."""
        aliases = await asyncio.to_thread(self._store.aliases, version.model)
        if alias or DEFAULT_ALIAS not in aliases:
            await self._registry.load(version.model, version.number)
        if alias:
            await to_end(
                lambda: self._store.set_alias(version.model, alias, version.number), final=True
            )
        log.info("%s was promoted", version.name, extra={"alias": alias})


def try_turn(root: Path, held: ExitStack) -> bool:
    """Take the turn of whoever promotes, of all servers on a store, until `held` closes.

    False while somebody else has it. Raises StoreUnwritable.
    """
    with writing():
        root.mkdir(parents=True, exist_ok=True)
        lock = try_lock(root / PROMOTING)
    if lock is not None:
        held.callback(os.close, lock)
    return lock is not None


def why_not(job: JobRecord, finished: Object) -> str:
    """Why a job's result does not become a version, for people."""
    if not finished or job.evaluation is None:
        return "not promoted: it could not be held against the version in service"
    return (
        f"not promoted: its test loss, {job.evaluation['loss']:.4g}, is not below that of the "
        f"version in service, {finished['baseline_loss']:.4g}, by {job.margin or 0:.0%} of it"
    )
