"""Grants: what a credential that was verified is good for, and how it is withdrawn."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from carousel.errors import Unauthenticated
from carousel.server.access.caller import Caller

log = logging.getLogger("carousel.access")

# The same for all that is wrong with a credential: whoever guesses learns nothing from it.
REFUSED = "the credential is not valid"


class AccessError(Exception):
    """A file of keys, signing keys or identities can't be used; the message says why."""


class Source:
    """What grants rest on: an API key, an issuer's signing key, a row of a table of identities.

    Withdrawn once and for good, by whoever reads the file that it came from.
    """

    withdrawn = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A caller, for as long as its credential holds."""

    caller: Caller
    kind: str  # of credential, for metrics
    source: Source
    until: float  # seconds since the epoch

    def holds(self, now: float) -> bool:
        return now < self.until and not self.source.withdrawn


class Verifier(Protocol):
    """Knows credentials of one kind. May be asked from any thread but the event loop's."""

    kind: str

    def takes(self, credential: str) -> bool:
        """Whether a credential looks like one of this kind; at once."""
        ...

    def verify(self, credential: str) -> Grant:
        """Raises Unauthenticated. Takes its time."""
        ...

    def refresh(self) -> None:
        """Look whether what it knows has changed. Called every second; never raises."""
        ...


def refused(why: str) -> Unauthenticated:
    """The error for a credential; why goes to the log alone, and must hold nothing secret."""
    log.info("a credential was refused: %s", why)
    return Unauthenticated(REFUSED)
