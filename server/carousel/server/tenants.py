"""Tenants: for whom a call works, as its metadata says."""

from __future__ import annotations

import re

from carousel.errors import InvalidField
from carousel.server.rpc import Context

HEADER = "x-carousel-tenant"

_NAME = re.compile(r"[a-z0-9-]{0,63}")


def tenant_of(context: Context) -> str:
    """The tenant of a call; without the metadata the empty one. Raises InvalidField."""
    for key, value in context.invocation_metadata() or ():
        if key == HEADER:
            name = value if isinstance(value, str) else value.decode()
            if not _NAME.fullmatch(name):
                raise InvalidField(
                    f"{HEADER} must be at most 63 of a-z, 0-9 and '-', got {name!r:.100}",
                    field=HEADER,
                )
            return name
    return ""
