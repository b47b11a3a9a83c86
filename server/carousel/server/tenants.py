"""Tenants: for whom a call works, as its metadata says."""

from __future__ import annotations

import re

from carousel.errors import InvalidField
from carousel.server.logs import REQUEST_ID_KEY, is_request_id
from carousel.server.rpc import Context

HEADER = "x-carousel-tenant"

_NAME = re.compile(r"[a-z0-9-]{0,63}")


Origin = dict[str, str] | None
"""Labels by which a request is found, where it has an id."""


def tenant_of(context: Context) -> str:
    """The tenant of a call; without the metadata the empty one. Raises InvalidField."""
    return caller_of(context)[0]


def caller_of(context: Context) -> tuple[str, Origin]:
    """The tenant of a call, and its origin if the caller gave it an id. Raises InvalidField."""
    tenant, origin = "", None
    for key, value in context.invocation_metadata() or ():
        if key == HEADER:
            tenant = _checked(value if isinstance(value, str) else value.decode())
        elif key == REQUEST_ID_KEY and is_request_id(value):
            origin = origin_of(value)
    return tenant, origin


def origin_of(request_id: str) -> Origin:
    return {"request_id": request_id} if request_id else None


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidField(
            f"{HEADER} must be at most 63 of a-z, 0-9 and '-', got {name!r:.100}",
            field=HEADER,
        )
    return name
