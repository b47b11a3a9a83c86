"""The caller: on whose behalf the code of a call runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from carousel.errors import PermissionDenied

SCOPES = frozenset({"infer", "sessions", "models", "train", "metrics", "admin"})
"""All that a credential can allow; the table in rules.py says which RPC needs which."""

OPERATORS = frozenset({"metrics", "admin"})
"""Scopes of what is the whole server's, with everybody's things in it: no tenant can have them."""

TENANT_NAME = re.compile(r"[a-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever the gate let in. The empty tenant is the operator's, which is over all tenants."""

    name: str  # for the audit log, as in key/ab12cd; never a secret
    tenant: str
    scopes: frozenset[str]


SERVER = Caller("server", "", SCOPES)
"""Work that no call asked for: sweeps, jobs that go on, the status page."""

current: ContextVar[Caller] = ContextVar("caller", default=SERVER)
"""Set by the wrappers of rpc.py once the gate let the call in, and by `acting_for` alone else."""


@contextmanager
def acting_for(tenant: str) -> Iterator[None]:
    """The server works in a tenant, as an operator does who names it. Raises ValueError."""
    check_rights(tenant, [])
    token = current.set(replace(SERVER, tenant=tenant))
    try:
        yield
    finally:
        current.reset(token)


peer_now: ContextVar[str] = ContextVar("peer", default="")
"""The caller's address, as gRPC writes it where the call came in. Of a call that has ended gRPC
must not be asked; of calls that are too frequent it is not asked at all."""

denied: ContextVar[Caller | None] = ContextVar("denied", default=None)
"""Whom the gate knows and did not let in, for the access log."""


def caller_now() -> Caller:
    """Who asked for what is being done; tasks that a call starts inherit it."""
    return current.get()


def need(scope: str) -> None:
    """For what a request asks beyond what its method does. Raises PermissionDenied."""
    if scope not in caller_now().scopes:
        raise missing_scope(scope)


def missing_scope(scope: str) -> PermissionDenied:
    whose = ", which the operator's alone can have" if scope in OPERATORS else ""
    return PermissionDenied(f"the credential has not the scope {scope}{whose}")


def check_rights(tenant: object, scopes: object) -> None:
    """What a file says that a credential may do. Raises ValueError."""
    if not isinstance(tenant, str) or not TENANT_NAME.fullmatch(tenant):
        raise ValueError(f"tenant must be at most 63 of a-z, 0-9 and '-', got {tenant!r:.100}")
    if not isinstance(scopes, list):
        raise ValueError(f"scopes are a list, got {scopes!r:.100}")
    unknown = [one for one in scopes if one not in SCOPES]
    if unknown:
        raise ValueError(f"scopes are {', '.join(sorted(SCOPES))}, got {unknown[0]!r:.100}")
    if tenant and (forbidden := sorted(OPERATORS.intersection(scopes))):
        raise ValueError(
            f"the scope {forbidden[0]} shows or stops the server of all tenants: it is for the "
            f"operator, whose tenant is empty, got tenant {tenant!r}"
        )
