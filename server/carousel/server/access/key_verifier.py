"""Verifies API keys against their file, which may change at any time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from carousel.server.access import api_key, key_file
from carousel.server.access.api_key import ApiKey
from carousel.server.access.caller import Caller
from carousel.server.access.grant import AccessError, Grant, Source, log, refused
from carousel.server.access.private_file import stamp


class Row(Source):
    """A key of the file, as it was read."""

    def __init__(self, key: ApiKey) -> None:
        self.key = key


class KeyVerifier:
    """Reads the file when it is made, and again when it changes. Raises AccessError."""

    kind = "key"

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._stamp = stamp(file)
        self._rows = {key.id: Row(key) for key in key_file.read(file).values()}

    def takes(self, credential: str) -> bool:
        return credential.startswith(api_key.PREFIX)

    def verify(self, credential: str) -> Grant:
        parsed = api_key.parse(credential)
        if parsed is None:
            raise refused("an API key that is malformed")
        key_id, secret = parsed
        row = self._rows.get(key_id)
        if row is None:
            raise refused(f"no API key has the id {key_id}")
        key = row.key
        until = math.inf if key.expire_time is None else key.expire_time.timestamp()
        if until <= self._clock():  # before the slow hash, which old keys could make us busy with
            raise refused(f"the API key {key_id} has expired")
        if not key.fits(secret):
            raise refused(f"a wrong secret for the API key {key_id}")
        return Grant(
            caller=Caller(f"key/{key_id}", key.tenant, key.scopes),
            kind=self.kind,
            source=row,
            until=until,
        )

    def refresh(self) -> None:
        """Withdraw what is no longer in the file, or in another way; all, if it can't be read."""
        now = stamp(self._file)
        if now == self._stamp:
            return
        try:
            keys = key_file.read(self._file)
        except AccessError as error:
            log.error("no API key is good any more: %s", error)
            keys = {}
        self._stamp = now
        old, self._rows = self._rows, {key.id: self._row(key) for key in keys.values()}
        gone = [row for key_id, row in old.items() if self._rows.get(key_id) is not row]
        for row in gone:
            row.withdrawn = True
        log.info("API keys were read again", extra={"keys": len(keys), "withdrawn": len(gone)})

    def _row(self, key: ApiKey) -> Row:
        """The same as before where the key is, so that its grants go on."""
        old = self._rows.get(key.id)
        return old if old is not None and old.key == key else Row(key)
