"""What names of models stand for, kept while nothing changes in the models' folders."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from carousel.server.aliases import ALIASES, changed_moment
from carousel.server.follower import FRESH_NS
from carousel.server.names import ModelRef, path_of
from carousel.server.store import ModelStore, Stamp

Found = TypeVar("Found")

KEPT_NS = 1_000_000_000  # what is changed by hand inside a version's folder shows no later
MOST = 1024  # callers may name any tenant


class Known(NamedTuple, Generic[Found]):
    """What a name stood for at some moment, and the stamps that its folders had before."""

    version: Found
    stamps: tuple[Stamp, ...]
    moment: int


class Resolved(Generic[Found]):
    """Answers without a look into folders whose stamps are the same; for the event loop.

    What is found is kept only where the stamps are old: a change within one tick of the file
    system's clock would not show. Errors are not kept.
    """

    def __init__(self, store: ModelStore, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[tuple[ModelRef, str], Known[Found]] = {}

    def version(self, ref: ModelRef, tenant: str, find: Callable[[], Found]) -> Found:
        """What a tenant means by a name; `find` looks it up. Raises what `find` does."""
        now, models = self._clock(), dict.fromkeys((ref.of(tenant).model, ref.model))
        stamps = tuple(_stamp(self._store.root, model) for model in models)
        known = self._known.get((ref, tenant))
        if known and known.stamps == stamps and 0 <= now - known.moment < KEPT_NS:
            return known.version
        version = find()
        if now - max(map(max, stamps)) > FRESH_NS:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[ref, tenant] = Known(version, stamps, now)
        return version

    def clear(self) -> None:
        """Other versions are loaded now, or names were settled."""
        self._known.clear()


def _stamp(root: Path, model: str) -> Stamp:
    """As ModelStore.stamps says it; zeros for what there isn't."""
    home, aliases = _watched(root, model)
    return changed_moment(home), changed_moment(aliases)


@functools.lru_cache(MOST)
def _watched(root: Path, model: str) -> tuple[str, str]:
    """To put paths together takes longer than to look at what is there."""
    home = root / path_of(model)
    return str(home), str(home / ALIASES)
