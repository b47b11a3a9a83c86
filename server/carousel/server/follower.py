"""The follower: what others bring into a shared store is taken up without a word from anybody.

Every few seconds it looks at the store. What an alias newly points at is loaded, and of a model
without the alias `stable` the newest version that training made; new sessions get what was there
before until that is done, and live ones stay on their version anyway. Health policies are read
again, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

from carousel.errors import AliasNotFound, CarouselError, ModelNotFound
from carousel.server.names import ModelRef
from carousel.server.store import DEFAULT_ALIAS, ModelStore, Stamp

# Two changes may come within one tick of a file system's clock: what is newer is read again.
FRESH_NS = 2_000_000_000

log = logging.getLogger("carousel.follower")


class Loader(Protocol):
    """What the follower needs of the registry."""

    async def load(self, model: str, number: int) -> None: ...
    def settle(self, ref: ModelRef, number: int) -> None: ...
    async def follow_health_policies(self) -> None: ...


class Follower:
    """Follows a store for a server that loads `wanted` when it starts; none: all models.

    A version that is wanted by its number stays what it is.
    """

    def __init__(self, store: ModelStore, wanted: Iterable[str]) -> None:
        self._store = store
        self._wanted = [ModelRef.parse(name, field="load") for name in wanted]
        self._stamps: dict[str, Stamp] = {}
        self._known: dict[ModelRef, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, registry: Loader, *, every: float) -> None:
        """Look every so many seconds; what `look` found until now is taken for loaded."""
        for ref, number in self._known.items():
            registry.settle(ref, number)
        self._task = asyncio.get_running_loop().create_task(self._main(registry, every))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def look(self) -> dict[ModelRef, int]:
        """What names stand for that stood for something else at the last look; blocks.

        Only models whose folders have changed are read.
        """
        stamps = self._store.stamps()
        changed = {
            model
            for model in stamps.keys() | self._stamps.keys()
            if stamps.get(model) != self._stamps.get(model)
        }
        now = time.time_ns()
        self._stamps = {m: stamp for m, stamp in stamps.items() if now - max(stamp) > FRESH_NS}
        found: dict[ModelRef, int] = {}
        for model in sorted(changed):
            try:
                found.update(self._targets(model))
            except CarouselError as error:  # an alias came before its version, or is damaged
                log.warning("models/%s is looked at again: %s", model, error.message)
                self._stamps.pop(model, None)
                changed.discard(model)
        news = {ref: number for ref, number in found.items() if self._known.get(ref) != number}
        kept = {ref: n for ref, n in self._known.items() if ref.model not in changed}
        self._known = kept | found
        return news

    def _targets(self, model: str) -> Iterator[tuple[ModelRef, int]]:
        """What each name that we follow stands for. Raises VersionNotFound, WeightsInvalid."""
        aliases = self._store.aliases(model)
        refs = [ref for ref in self._wanted if ref.model == model and ref.version is None]
        if not self._wanted:
            refs = [ModelRef(model), *(ModelRef(model, alias=alias) for alias in aliases)]
        for ref in refs:
            if ref.alias is None and DEFAULT_ALIAS not in aliases:
                number = self._store.newest_promoted(model)
                if number is not None:
                    yield ref, number
                continue
            with contextlib.suppress(ModelNotFound, AliasNotFound):
                yield ref, self._store.resolve(ref).number

    async def _main(self, registry: Loader, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            try:
                news = await asyncio.to_thread(self.look)
            except Exception:  # the next look may go well
                log.exception("the store could not be looked at")
                continue
            for ref, number in news.items():
                await _take_up(registry, ref, number)
            await registry.follow_health_policies()


async def _take_up(registry: Loader, ref: ModelRef, number: int) -> None:
    try:
        await registry.load(ref.model, number)
    except CarouselError as error:
        log.error("%s stays what it was, not %d: %s", ref, number, error.message)
    else:
        registry.settle(ref, number)
        log.info("%s is version %d now", ref, number)
