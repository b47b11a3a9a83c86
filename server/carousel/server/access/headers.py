"""Headers: what a call says of its caller."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

from carousel.errors import InvalidField
from carousel.server.access.caller import TENANT_NAME
from carousel.server.access.grant import refused

AUTHORIZATION = "authorization"
TENANT = "x-carousel-tenant"

_BEARER = re.compile(r"bearer +([\x21-\x7e]{1,8192})", re.I)
_BASIC = re.compile(r"basic +([A-Za-z0-9+/=]{1,12000})", re.I)


def read(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[str | None, str]:
    """What authorizes a call, if anything does, and the tenant that it names, or none.

    Raises Unauthenticated, InvalidField.
    """
    authorization: str | None = None
    tenant = ""
    for key, value in metadata or ():
        if key == AUTHORIZATION:
            if authorization is not None:
                raise refused("two authorization headers")
            authorization = value if isinstance(value, str) else ""
        elif key == TENANT:
            tenant = _tenant(value if isinstance(value, str) else value.decode())
    return authorization, tenant


def tenant_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The tenant that a call names, or none. Raises InvalidField."""
    for key, value in metadata or ():
        if key == TENANT:
            return _tenant(value if isinstance(value, str) else value.decode())
    return ""


def bearer(value: str) -> str:
    """The credential in `Bearer CREDENTIAL`. Raises Unauthenticated."""
    found = _BEARER.fullmatch(value)
    if found is None:
        raise refused("an authorization header that is not `Bearer CREDENTIAL`")
    return found[1]


def over_http(values: list[str]) -> str | None:
    """The same of HTTP's headers, where a browser sends what it asked for as a password."""
    if not values:
        return None
    if len(values) > 1:
        raise refused("two authorization headers")
    basic = _BASIC.fullmatch(values[0])
    if basic is None:
        return values[0]
    try:
        _, _, password = base64.b64decode(basic[1], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise refused("an authorization header that is not base64") from None
    return f"Bearer {password}"


def _tenant(name: str) -> str:
    if not TENANT_NAME.fullmatch(name):
        raise InvalidField(
            f"{TENANT} must be at most 63 of a-z, 0-9 and '-', got {name!r:.100}", field=TENANT
        )
    return name
