"""State stores: where sessions outlive the process."""

from __future__ import annotations

from carousel.server.stores.sqlite import SqliteStore
from carousel.server.stores.store import ENDED, Batch, Entry, StateStore

__all__ = ["ENDED", "Batch", "Entry", "StateStore", "open_store"]


def open_store(address: str) -> StateStore:
    return SqliteStore(address)
