"""The embedded store: one SQLite file, a batch is one transaction, durable when it commits."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from carousel.errors import StoreUnavailable
from carousel.server.stores.store import Batch, Entry

VERSION = 1  # of the schema, in the file's user_version
BUSY_SECONDS = 5.0  # how long to wait for another process that writes
ROWS = 1024  # of one statement: binding one holds the interpreter's lock for about 2 us

# With NOT NULL on a column, SQLite would keep a journal of each statement with several rows, so as
# to undo it alone, which takes as long again as the statement.
SCHEMA = """
CREATE TABLE entries (
  id TEXT PRIMARY KEY, former INTEGER, handle INTEGER, revision INTEGER, expire_time REAL, data BLOB
);
CREATE INDEX live_by_expiry ON entries (expire_time) WHERE handle <> 0;
CREATE INDEX ended_by_expiry ON entries (expire_time) WHERE handle = 0;
"""

# Of a connection. The log is copied into the file every 64 MiB: a session that goes on is written
# there once for many times. 16 MB of rows are kept at hand, since overwriting one reads it.
# The trigger is the rule of StateStore.write.
SETTINGS = """
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 16000;
PRAGMA cache_size = -16000;
PRAGMA temp_store = MEMORY;
CREATE TEMP TABLE refused (id TEXT);
CREATE TEMP TRIGGER fence BEFORE INSERT ON main.entries
WHEN NOT ifnull(
  (SELECT CASE handle
     WHEN 0 THEN NEW.former = 0 OR NEW.handle = 0
     WHEN NEW.handle THEN revision <= NEW.revision
     WHEN NEW.former THEN revision < NEW.revision
     ELSE FALSE END
   FROM main.entries WHERE id = NEW.id),
  NEW.former = 0 OR NEW.handle = 0)
BEGIN
  INSERT INTO refused VALUES (NEW.id);
  SELECT RAISE(IGNORE);
END;
"""

# One statement for all rows: sqlite3 gives the interpreter's lock up, and has to win it back, at
# every call. WHERE keeps out the padding, and tells the parser that ON begins no join.
COLUMNS = 6
WRITE = """
INSERT INTO entries SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
ON CONFLICT (id) DO UPDATE SET (former, handle, revision, expire_time, data)
  = (excluded.former, excluded.handle, excluded.revision, excluded.expire_time, excluded.data)
"""
SELECT = "SELECT id, handle, revision, expire_time, data FROM entries "

Row = tuple[object, ...]


class SqliteStore:
    """A StateStore in a file, which several processes may have open; opened at first need."""

    kind = "sqlite"

    def __init__(self, path: str | Path, *, busy_timeout: float = BUSY_SECONDS) -> None:
        self._path = Path(path)
        self._busy_timeout = busy_timeout
        self._connection: sqlite3.Connection | None = None

    def write(self, batch: Batch) -> list[int]:
        formers, handles = _signed(batch.formers), _signed(batch.handles)
        columns = (batch.ids, formers, handles, batch.revisions, batch.expire_times, batch.data)
        rows: list[Row] = list(zip(*columns, strict=True))
        with self._opened() as connection:
            if len(rows) > ROWS:
                connection.execute("BEGIN IMMEDIATE")
            starts = range(0, len(rows), ROWS)
            accepted = sum(_write(connection, rows[start : start + ROWS]) for start in starts)
            refused = []
            if accepted < len(rows):
                refused = connection.execute("DELETE FROM refused RETURNING id").fetchall()
            if connection.in_transaction:
                connection.execute("COMMIT")
        ids = {session_id for (session_id,) in refused}
        return [place for place, session_id in enumerate(batch.ids) if session_id in ids]

    def read(self, ids: Sequence[str]) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        with self._opened() as connection:
            for start in range(0, len(ids), ROWS):
                some = ids[start : start + ROWS]
                marks = ",".join("?" * len(some))
                for entry in _entries(connection, f"WHERE id IN ({marks})", *some):
                    found[entry.session_id] = entry
        return found

    def page(self, after: str, limit: int) -> list[Entry]:
        with self._opened() as connection:
            where = "WHERE id > ? AND handle <> 0 ORDER BY id LIMIT ?"
            return list(_entries(connection, where, after, limit))

    def expired(self, now: float, limit: int) -> list[Entry]:
        with self._opened() as connection:
            where = "WHERE expire_time <= ? AND handle <> 0 LIMIT ?"
            return list(_entries(connection, where, now, limit))

    def forget(self, now: float) -> None:
        with self._opened() as connection:
            connection.execute("DELETE FROM entries WHERE expire_time <= ? AND handle = 0", (now,))

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The connection, let go of after an error: the next call opens the file anew."""
        try:
            if self._connection is None:
                self._connection = self._open()
            yield self._connection
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error | OSError):
                name = getattr(error, "sqlite_errorname", type(error).__name__)
                raise StoreUnavailable(
                    f"the session store {self._path} can't be used: {error} ({name})"
                ) from error
            raise

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Never opens a file that is there: closing it would drop the locks that SQLite has on it.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        connection = sqlite3.connect(
            self._path,
            timeout=self._busy_timeout,
            isolation_level=None,  # a statement is a transaction, if BEGIN is not said
            check_same_thread=False,
        )
        try:
            # The first change to WAL fails, and does not wait, where another makes it just then.
            with _alone(self._path.parent):
                connection.execute("PRAGMA journal_mode = WAL")
                self._prepare(connection)
            connection.executescript(SETTINGS)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables in a new file."""
        [(version,)] = connection.execute("PRAGMA user_version")
        if version == 0:
            connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT")
        elif version > VERSION:
            raise StoreUnavailable(
                f"the session store {self._path} was written by a newer Carousel: its schema has"
                f" version {version}, this one knows versions up to {VERSION}"
            )


def _write(connection: sqlite3.Connection, rows: list[Row]) -> int:
    """How many were accepted."""
    size = 1 << (len(rows) - 1).bit_length()  # few sizes, so that statements are found prepared
    values = [value for row in rows for value in row]
    values += [None] * (COLUMNS * (size - len(rows)))
    return connection.execute(_write_of(size), values).rowcount


@functools.cache
def _write_of(size: int) -> str:
    marks = ",".join("?" * COLUMNS)
    return WRITE.format(rows=",".join([f"({marks})"] * size))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process, or thread, at a time."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _signed(handles: Iterable[int]) -> list[int]:
    """SQLite's integers are signed: the same 64 bits."""
    return [handle - ((handle & 1 << 63) << 1) for handle in handles]


def _entries(connection: sqlite3.Connection, where: str, *values: object) -> Iterator[Entry]:
    for session_id, handle, revision, expire_time, data in connection.execute(
        SELECT + where, values
    ):
        yield Entry(session_id, handle % (1 << 64), revision, expire_time, data)
