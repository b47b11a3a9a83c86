"""State stores: where sessions outlive the process."""

from __future__ import annotations

from carousel.server.stores.store import ENDED, Batch, Entry, StateStore

__all__ = ["ENDED", "Batch", "Entry", "StateStore", "open_store"]


def open_store(where: str) -> StateStore:
    """The store at a URL of Valkey or at the path of a file, opened when it is first used.

    Raises ValueError for anything else.
    """
    scheme, separator, _ = where.partition("://")
    if separator and scheme in ("valkey", "valkeys"):
        from carousel.server.stores.valkey import ValkeyStore

        return ValkeyStore(where)
    if separator or not where:
        raise ValueError(
            "a state store must be valkey://[user:password@]host:port/database, valkeys:// for"
            f" TLS, or the path of a file, got {scheme + '://...' if separator else 'nothing'}"
        )
    from carousel.server.stores.sqlite import SqliteStore

    return SqliteStore(where)
