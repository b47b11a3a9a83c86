"""State stores: where sessions outlive the process."""

from __future__ import annotations

from carousel.server.stores.store import Batch, Entry, StateStore

__all__ = ["Batch", "Entry", "StateStore"]
