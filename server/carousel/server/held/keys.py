"""The keys that seal held states: read from a file, one a line, or made once."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from pathlib import Path

from carousel.errors import StoreUnwritable
from carousel.server.staging import writing

MIN_BYTES = 32
OWN = "state.key"


class KeysError(Exception):
    """The file of keys can't be used; the message says why."""


class Keyring:
    """The keys of a server: those of the file it is given, or of its own, made at first need."""

    def __init__(self, file: Path | None, data_folder: Path) -> None:
        """Raises KeysError when the given file can't be used."""
        self._own = data_folder / OWN
        self._keys = () if file is None else read(file)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The first seals, all open. Raises StoreUnwritable."""
        if not self._keys:
            try:
                self._keys = read_or_make(self._own)
            except KeysError as error:
                raise StoreUnwritable(str(error)) from error
        return self._keys

    def seal(self, content: bytes) -> bytes:
        return hmac.digest(self.keys[0], content, "sha256")

    def holds(self, content: bytes, seal: bytes) -> bool:
        """Whether one of the keys made this seal."""
        digests = [hmac.digest(key, content, "sha256") for key in self.keys]
        return any([hmac.compare_digest(digest, seal) for digest in digests])


def read(file: Path) -> tuple[bytes, ...]:
    """The keys of a file, one a line: the first seals, all open. Raises KeysError."""
    try:
        lines = [line.strip() for line in file.read_bytes().splitlines()]
    except OSError as error:
        raise KeysError(f"the file of state keys {file} can't be read: {error.strerror}") from None
    keys = tuple(line for line in lines if line)
    short = [number for number, key in enumerate(keys, start=1) if len(key) < MIN_BYTES]
    if short or not keys:
        got = f"key {short[0]} has {len(keys[short[0] - 1])}" if short else "it has none"
        raise KeysError(
            f"the file of state keys {file} must have a key of at least {MIN_BYTES} bytes a line, "
            f"as `openssl rand -hex 32` gives them; {got}"
        )
    return keys


def read_or_make(file: Path) -> tuple[bytes, ...]:
    """The same, of a file that is made with a random key where there is none.

    Servers that begin at the same moment on one folder agree. Raises KeysError, StoreUnwritable.
    """
    if not file.exists():
        with writing():
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = file.with_name(f".{file.name}-{secrets.token_hex(8)}")
            handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w") as stream:
                stream.write(f"{secrets.token_hex(MIN_BYTES)}\n")
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(new, file)  # unlike a rename, it never replaces one
            new.unlink()
    return read(file)
