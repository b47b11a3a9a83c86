"""SPIFFE ids of client certificates: a table of who they are here."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from carousel.server.access.caller import Caller, check_rights
from carousel.server.access.grant import AccessError, Grant, Source, log
from carousel.server.access.private_file import read_private, stamp

WHAT = "the table of SPIFFE ids"
KIND = "spiffe"
PEER = "peer_spiffe_id"  # which gRPC sets for a verified certificate with exactly one URI

_ID = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+")


class SpiffeTable:
    """Grants by id. Read when it is made, and again when the file changes. Raises AccessError."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp = stamp(file)
        self._grants = _read(file)

    def find(self, uris: Sequence[str]) -> Grant | None:
        """What a certificate with these URIs is good for. At once."""
        return self._grants.get(uris[0]) if len(uris) == 1 else None

    def refresh(self) -> None:
        now = stamp(self._file)
        if now == self._stamp:
            return
        try:
            grants = _read(self._file)
        except AccessError as error:
            log.error("no SPIFFE id is known any more: %s", error)
            grants = {}
        self._stamp = now
        old = self._grants
        for name, grant in old.items():
            if name in grants and grants[name].caller == grant.caller:
                grants[name] = grant
            else:
                grant.source.withdrawn = True
        self._grants = grants


def peer_ids(peer: Mapping[str, Iterable[bytes]]) -> list[str]:
    """The URIs of a connection's certificate, as gRPC tells them."""
    return [one.decode(errors="replace") for one in peer.get(PEER) or ()]


def _read(file: Path) -> dict[str, Grant]:
    try:
        table = tomllib.loads(read_private(file, WHAT).decode())
    except ValueError as error:
        raise AccessError(f"{WHAT} {file} can't be read: {error}") from None
    return {name: _grant(file, name, row) for name, row in table.items()}


def _grant(file: Path, name: str, row: Any) -> Grant:
    wrong = f"{WHAT} {file} is wrong"
    if not _ID.fullmatch(name):
        raise AccessError(f"{wrong}: an id must be as in spiffe://example.org/web, got {name!r}")
    if not isinstance(row, dict) or sorted(row) != ["scopes", "tenant"]:
        raise AccessError(
            f"{wrong}: {name} must have a tenant (the operator's is empty) and scopes"
        )
    try:
        check_rights(row["tenant"], row["scopes"])
    except ValueError as error:
        raise AccessError(f"{wrong} at {name}: {error}") from None
    caller = Caller(name, row["tenant"], frozenset(row["scopes"]))
    return Grant(caller=caller, kind=KIND, source=Source(), until=math.inf)
