"""SQLite as the state store of one machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from carousel.errors import StoreUnavailable
from carousel.server.stores.store import Batch, Entry

BITS = 1 << 64


def signed(n: int) -> int:
    return n - BITS if n >= 1 << 63 else n


class SqliteStore:
    kind = "sqlite"

    def __init__(self, path: str) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._path, timeout=5, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS s(id TEXT PRIMARY KEY, handle INT, revision INT,"
                " expire REAL, data BLOB)"
            )
        return self._db

    def write(self, batch: Batch) -> list[int]:
        try:
            db = self._open()
            refused = []
            with db:
                for i in range(len(batch)):
                    h, f = signed(batch.handles[i]), signed(batch.formers[i])
                    row = db.execute(
                        "SELECT handle, revision FROM s WHERE id=?", (batch.ids[i],)
                    ).fetchone()
                    ok = (
                        f == 0
                        if row is None
                        else (row[0] == f or (row[0] == h and h and row[1] <= batch.revisions[i]))
                    )
                    if not ok:
                        refused.append(i)
                        continue
                    db.execute(
                        "INSERT OR REPLACE INTO s VALUES(?,?,?,?,?)",
                        (batch.ids[i], h, batch.revisions[i], batch.expire_times[i], batch.data[i]),
                    )
            return refused
        except sqlite3.Error as error:
            raise StoreUnavailable(str(error)) from error

    def _entries(self, sql: str, *args: object) -> list[Entry]:
        try:
            rows = self._open().execute("SELECT * FROM s WHERE " + sql, args).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(str(error)) from error
        return [Entry(r[0], r[1] % BITS, r[2], r[3], r[4]) for r in rows]

    def read(self, ids: Sequence[str]) -> dict[str, Entry]:
        return {i: e for i in ids for e in self._entries("id=?", i)}

    def page(self, after: str, limit: int) -> list[Entry]:
        return self._entries("id>? AND handle<>0 ORDER BY id LIMIT ?", after, limit)

    def expired(self, now: float, limit: int) -> list[Entry]:
        return self._entries("expire<=? AND handle<>0 LIMIT ?", now, limit)

    def forget(self, now: float) -> None:
        with self._open() as db:
            db.execute("DELETE FROM s WHERE handle=0 AND expire<=?", (now,))

    def close(self) -> None:
        if self._db:
            self._db.close()
            self._db = None
