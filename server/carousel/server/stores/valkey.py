"""The shared store: a Valkey, a batch is one script, durable when its log is on the disk.

carousel:session:{id}   handle, revision, expire time (8 bytes each, big-endian), data
carousel:ids            live sessions in order of their ids
carousel:live           live sessions by expire time
carousel:ended          ended sessions by expire time
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from valkey import Connection, SSLConnection, ValkeyError

from carousel.errors import StoreUnavailable
from carousel.server.stores.store import Batch, Entry
from carousel.server.stores.valkey_scripts import FORGET, RANGE, WRITE

PORT = 6379
TIMEOUT_SECONDS = 2.0
ENTRY = b"carousel:session:"
IDS, LIVE, ENDED = b"carousel:ids", b"carousel:live", b"carousel:ended"
HEAD = struct.Struct(">QQd")
GROUP = 1000  # entries that one script forgets
OLDEST = (7, 2)  # has WAITAOF

# What INFO must say, and what it means when it does not.
WANTED = {
    "aof_enabled": ("1", "appendonly must be yes: without its log it forgets what it took"),
    "maxmemory_policy": ("noeviction", "maxmemory-policy must be noeviction: others drop sessions"),
    "role": ("master", "it must be a primary: replicas take no writes"),
    "cluster_enabled": ("0", "cluster-enabled must be no: a batch is one script on one server"),
}


class ValkeyStore:
    """A StateStore that several servers share; connected at first need.

    `replicas` is how many replicas must have a batch on their disks too. `timeout`, in seconds, is
    of connecting and of every answer. Valkey must have appendonly yes and maxmemory-policy
    noeviction, and should have appendfsync always: a batch is one command and one sync. With
    everysec it looks for what is synced `hz` times a second, by default every 100 ms. The user
    needs INFO, CLIENT ID, CLIENT KILL, SCRIPT LOAD, EVALSHA, WAITAOF, MGET and what the scripts
    call, on the keys `carousel:*`.
    """

    kind = "valkey"

    def __init__(self, url: str, *, replicas: int = 0, timeout: float = TIMEOUT_SECONDS) -> None:
        self._options, self._name = _parse(url, timeout)
        self._tls = url.startswith("valkeys:")
        self._replicas = replicas
        # The server gives up first, and so can say what it waited for.
        self._sync_milliseconds = max(1, int(timeout * 750))
        self._connection: Connection | None = None
        self._scripts: dict[str, bytes] = {}
        self._known_as: tuple[str, int] | None = None  # of the server's run, of the connection

    def write(self, batch: Batch) -> list[int]:
        keys = [ENTRY + session_id.encode() for session_id in batch.ids]
        formers = struct.pack(f">{len(batch)}Q", *batch.formers)
        heads = zip(batch.handles, batch.revisions, batch.expire_times, strict=True)
        records = [HEAD.pack(*head) + data for head, data in zip(heads, batch.data, strict=True)]
        wait = ("WAITAOF", 1, self._replicas, self._sync_milliseconds)
        with self._opened() as connection:
            script = self._script(WRITE, [IDS, LIVE, ENDED, *keys], [ENTRY, formers, *records])
            refused, (here, there) = _call(connection, script, wait)
            if here < 1 or there < self._replicas:
                raise ValkeyError(
                    f"within {self._sync_milliseconds} ms the batch came to the disk of {here} of"
                    f" 1 primary and of {there} of {self._replicas} replicas"
                )
        return [int(place) for place in refused]

    def read(self, ids: Sequence[str]) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for start in range(0, len(ids), GROUP):
            some = ids[start : start + GROUP]
            with self._opened() as connection:
                [records] = _call(connection, ("MGET", *(ENTRY + one.encode() for one in some)))
            for session_id, record in zip(some, records, strict=True):
                if record is not None:
                    found[session_id] = _entry(session_id, record)
        return found

    def page(self, after: str, limit: int) -> list[Entry]:
        return self._range(IDS, b"(" + after.encode(), b"+", b"BYLEX", limit)

    def expired(self, now: float, limit: int) -> list[Entry]:
        return self._range(LIVE, b"-inf", _score(now), b"BYSCORE", limit)

    def forget(self, now: float) -> None:
        forgotten = GROUP
        while forgotten == GROUP:
            with self._opened() as connection:
                [forgotten] = _call(
                    connection, self._script(FORGET, [ENDED], [ENTRY, _score(now), GROUP])
                )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _range(self, key: bytes, low: bytes, high: bytes, by: bytes, limit: int) -> list[Entry]:
        with self._opened() as connection:
            script = self._script(RANGE, [key], [ENTRY, low, high, by, limit])
            [found] = _call(connection, script)
        pairs = zip(found[::2], found[1::2], strict=True)
        return [_entry(session_id.decode(), record) for session_id, record in pairs]

    def _script(self, text: str, keys: Sequence[Any], values: Sequence[Any]) -> tuple[Any, ...]:
        return ("EVALSHA", self._scripts[text], len(keys), *keys, *values)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Connection]:
        """The connection, let go of after an error: the next call connects anew."""
        try:
            if self._connection is None:
                kind = SSLConnection if self._tls else Connection
                self._connection = kind(**self._options)
                self._greet(self._connection)
            yield self._connection
        except BaseException as error:
            self.close()
            if isinstance(error, ValkeyError | OSError):
                raise StoreUnavailable(
                    f"the session store {self._name} can't be used: {error}"
                ) from error
            raise

    def _greet(self, connection: Connection) -> None:
        """See whom we speak to, have the scripts there, and the former connection gone.

        What was sent on that may still lie in the network or before a server that stands still. It
        must not arrive after what is sent on this one.
        """
        scripts = (WRITE, RANGE, FORGET)
        loads = [("SCRIPT", "LOAD", script) for script in scripts]
        text, number, *hashes = _call(connection, ("INFO",), ("CLIENT", "ID"), *loads)
        info = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
        _check(info)
        if self._known_as is not None and self._known_as[0] == info["run_id"]:
            _call(connection, ("CLIENT", "KILL", "ID", self._known_as[1]))
        self._known_as = (info["run_id"], number)
        self._scripts = dict(zip(scripts, hashes, strict=True))


def _call(connection: Connection, *commands: tuple[Any, ...]) -> list[Any]:
    """Send commands together, then read their answers."""
    connection.send_packed_command(connection.pack_commands(commands))
    return [connection.read_response() for _ in commands]


def _check(info: dict[str, str]) -> None:
    version = info["redis_version"]  # Valkey too says which Redis it stands for
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise ValkeyError(f"it must be of version 7.2 or newer, to have WAITAOF, it is {version}")
    for field, (wanted, meaning) in WANTED.items():
        if info.get(field, wanted) != wanted:
            raise ValkeyError(f"{meaning} ({field} is {info[field]}, not {wanted})")


def _parse(url: str, timeout: float) -> tuple[dict[str, Any], str]:
    """Options of a connection, and a name for people, without the password. Raises ValueError."""
    parts = urlsplit(url)
    try:
        port, database = parts.port or PORT, int(parts.path.strip("/") or 0)
    except ValueError:
        raise _malformed(parts) from None
    if parts.scheme not in ("valkey", "valkeys") or not parts.hostname or database < 0:
        raise _malformed(parts)
    if parts.query or parts.fragment:
        raise _malformed(parts)
    options = {
        "host": parts.hostname,
        "port": port,
        "db": database,
        "username": unquote(parts.username or "") or None,
        "password": unquote(parts.password or "") or None,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
    }
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return options, f"{parts.scheme}://{host}:{port}/{database}"


def _malformed(parts: SplitResult) -> ValueError:
    given = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return ValueError(
        "a Valkey's URL must be valkey://[user:password@]host:port/database, or valkeys:// for TLS,"
        f" got {given}"
    )


def _score(seconds: float) -> bytes:
    return b"%.17g" % seconds


def _entry(session_id: str, record: bytes) -> Entry:
    handle, revision, expire_time = HEAD.unpack_from(record)
    return Entry(session_id, handle, revision, expire_time, record[HEAD.size :])
