"""Tenants: for whom a call works."""

from __future__ import annotations

from carousel.server.access.caller import caller_now, peer_now
from carousel.server.logs import REQUEST_ID_KEY, is_request_id
from carousel.server.rpc import Context

Origin = dict[str, str] | None
"""Labels by which a request is found, where it has an id."""


def tenant_of(context: Context) -> str:
    """The tenant of a call, as the gate found it."""
    return caller_now().tenant


def address_of(context: Context) -> str:
    """Who takes turns with others: a tenant, or without one whoever has the peer's address."""
    return tenant_of(context) or peer_now.get().rpartition(":")[0]


def party_of(context: Context) -> str:
    """Whose place in the queues of steps a call takes: its tenant's, or without one that of its
    connection.

    To be asked when the call comes: of one that has ended gRPC must not be asked.
    """
    return tenant_of(context) or peer_now.get() or context.peer()


def party_now() -> str:
    """The same, within a call that is not one of those which are too frequent."""
    return caller_now().tenant or peer_now.get()


def caller_of(context: Context) -> tuple[str, Origin]:
    """The tenant of a call, and its origin if the caller gave it an id."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and is_request_id(value):
            return tenant_of(context), origin_of(value)
    return tenant_of(context), None


def origin_of(request_id: str) -> Origin:
    return {"request_id": request_id} if request_id else None
