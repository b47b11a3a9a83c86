"""The database: opened at first need, brought to the newest form, one transaction at a time."""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from carousel.errors import StoreUnwritable, Unavailable

FILE = "records.sqlite"
BUSY_SECONDS = 30
MIGRATIONS = Path(__file__).with_name("migrations")
QUOTA_LOCK = 0x71756F74
MIGRATION_LOCK = 0x6361726F  # any number that nobody else on this PostgreSQL locks


class Database:
    """SQLite in the data folder, or PostgreSQL where a URL is given.

    Methods block: in a server, call them in a thread.
    """

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self._folder = folder
        self._url = url
        self._lock = threading.Lock()
        self._sessions: sessionmaker[Session] | None = None

    @property
    def exists(self) -> bool:
        """Whether there may be records: False only where nobody ever wrote any."""
        return self._url is not None or (self._folder / FILE).exists()

    @contextlib.contextmanager
    def begin(self) -> Iterator[Session]:
        """A transaction: committed at the end of the block, undone when it raises.

        Raises StoreUnwritable, Unavailable (the database can't be reached).
        """
        try:
            with self._open().begin() as session:
                yield session
        except SQLAlchemyError as error:
            raise _explain(error, self._url is None) from error

    def count_alone(self, session: Session, tenant: str) -> None:
        """To the end of the transaction nobody else counts what the tenant has, to add to it.

        SQLite has one writer at a time anyway.
        """
        if self._url is not None:
            lock = "SELECT pg_advisory_xact_lock(:what, hashtext(:tenant))"
            session.execute(text(lock), {"what": QUOTA_LOCK, "tenant": tenant})

    def close(self) -> None:
        with self._lock:
            if self._sessions is not None:
                engine = self._sessions.kw["bind"]
                engine.dispose()
                self._sessions = None

    def _open(self) -> sessionmaker[Session]:
        with self._lock:
            if self._sessions is None:
                engine = self._connect()
                try:
                    self._migrate(engine)
                except BaseException:
                    engine.dispose()
                    raise
                self._sessions = sessionmaker(engine, expire_on_commit=False)
            return self._sessions

    def _connect(self) -> Engine:
        if self._url is not None:
            return create_engine(parse_url(self._url), pool_pre_ping=True)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreUnwritable(
                f"the server can't write to its data folder: {error.strerror or error}"
            ) from error
        engine = create_engine(
            URL.create("sqlite", database=str(self._folder / FILE)),
            connect_args={"timeout": BUSY_SECONDS},
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _migrate(self, engine: Engine) -> None:
        """Apply what is missing; a second server that starts at the same time waits."""
        from alembic import command  # it takes a moment to import, and is needed once
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self._alone(engine), engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextlib.contextmanager
    def _alone(self, engine: Engine) -> Iterator[None]:
        if engine.dialect.name != "sqlite":
            yield
            return
        with (self._folder / "records.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def parse_url(url: str) -> URL:
    """A URL of PostgreSQL, with the driver that comes with Carousel. Raises ValueError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError("database_url must be postgresql://user:password@host/name")
    return parsed.set(drivername="postgresql+psycopg")


def _set_up_sqlite(connection: object, _: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined] # we say BEGIN ourselves
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that begins as a reader and then writes can't wait for another writer.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _explain(error: SQLAlchemyError, embedded: bool) -> Exception:
    if isinstance(error, IntegrityError):
        return Unavailable("somebody else took the same id at this moment", retry_after=0.1)
    cause = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    if embedded:
        return StoreUnwritable(f"the server's records can't be read or written: {cause}")
    return Unavailable(f"the server can't reach its database: {cause}", retry_after=1.0)
