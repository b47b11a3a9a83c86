"""An issuer's signing keys: a JWKS of a file or a URL, kept, and read again when it changes."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from carousel.server.access.grant import AccessError, Source
from carousel.server.access.private_file import read_private, stamp

log = logging.getLogger("carousel.access")

# Whoever can read a public key could sign with it, if these had one of HS* or none among them.
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
WHAT = "the JWKS"
AGE_SECONDS = 300.0  # after which a URL is asked again
UNKNOWN_SECONDS = 10.0  # an unknown key id makes it be asked again, but no more often
PATIENCE_SECONDS = 3.0
MAX_BYTES = 2**20


class SigningKey(Source):
    """One key of the set, bound to its algorithm."""

    def __init__(self, jwk: PyJWK, raw: dict[str, Any]) -> None:
        self.jwk = jwk
        self.raw = raw


Keys = dict[str, SigningKey]
"""By key id."""


class SigningKeys:
    """The keys. Safe to share between threads; finding one may wait for the issuer."""

    def __init__(self, where: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`where` is a path or a URL. Raises AccessError for a file that can't be used; an issuer
        that can't be reached now is asked again later, and until then no token is good."""
        self._where = where
        self._file = None if "://" in where else Path(where).expanduser()
        self._stamp = None if self._file is None else stamp(self._file)
        self._clock = clock
        self._looking = threading.Lock()
        self._looked = -AGE_SECONDS
        self._keys: Keys = {}
        if self._file is not None:
            self._keys = _parse(read_private(self._file, f"{WHAT} file"))

    def find(self, key_id: str | None) -> SigningKey | None:
        """The key of this id; without one, the only key of a set."""
        found = self._find(key_id)
        if found is None and self._file is None:
            with self._looking:
                found = self._find(key_id)  # somebody may have asked meanwhile
                if found is None and self._clock() - self._looked >= UNKNOWN_SECONDS:
                    self._ask()
                    found = self._find(key_id)
        return found

    def refresh(self) -> None:
        """Read the file again if it has changed, ask the URL again if that was long ago."""
        if self._file is not None:
            now = stamp(self._file)
            if now == self._stamp:
                return
            try:
                self._take(_parse(read_private(self._file, f"{WHAT} file")))
            except AccessError as error:
                log.error("no token is good any more: %s", error)
                self._take({})
            self._stamp = now
        elif self._clock() - self._looked >= AGE_SECONDS:
            with self._looking:
                if self._clock() - self._looked >= AGE_SECONDS:
                    self._ask()

    def _find(self, key_id: str | None) -> SigningKey | None:
        keys = self._keys
        if key_id is None:
            return next(iter(keys.values())) if len(keys) == 1 else None
        return keys.get(key_id)

    def _ask(self) -> None:
        """The issuer; what it said last stays good while it can't be reached."""
        self._looked = self._clock()
        try:
            self._take(_parse(_download(self._where)))
        except AccessError as error:
            log.error("signing keys could not be fetched: %s", error)

    def _take(self, new: Keys) -> None:
        old = self._keys
        for key_id, key in old.items():
            if key_id in new and new[key_id].raw == key.raw:
                new[key_id] = key  # its grants go on
            else:
                key.withdrawn = True
        self._keys = new


def _parse(text: bytes) -> Keys:
    """The keys that can sign; others, as those to encrypt, are left out. Raises AccessError."""
    try:
        listed = json.loads(text)["keys"]
        found: Keys = {}
        for number, raw in enumerate(listed):
            if (jwk := _usable(raw)) is not None:
                found[str(raw.get("kid", number))] = SigningKey(jwk, raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise AccessError(f"{WHAT} must be a JSON object with a list of keys") from None
    return found


def _usable(raw: dict[str, Any]) -> PyJWK | None:
    if raw.get("kty") == "oct" or raw.get("use", "sig") != "sig":
        return None
    try:
        jwk = PyJWK(raw)
    except PyJWTError as error:
        log.warning("a key of the JWKS can't be used: %s", error)
        return None
    return jwk if jwk.algorithm_name in ALGORITHMS else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead from https to anywhere."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def _download(url: str) -> bytes:
    """Raises AccessError."""
    try:
        with _opener.open(url, timeout=PATIENCE_SECONDS) as answer:
            body: bytes = answer.read(MAX_BYTES + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise AccessError(f"{url}: {error}") from None
    if len(body) > MAX_BYTES:
        raise AccessError(f"{url}: more than {MAX_BYTES:,} bytes")
    return body
