"""An API key: what is kept of it, and how one is made and verified."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from carousel.server.access.caller import SCOPES, check_rights

PREFIX = "carousel_"  # by which scanners for leaked secrets can find one
ID = re.compile(r"[0-9a-f]{12}")
NAME = re.compile(r"[\x20-\x7e]{0,100}")
SECRET_BYTES = 32
CHECK_BYTES = 2
COST = (2**14, 8, 1)  # scrypt's n, r and p: 16 MiB and some 50 ms
MAX_COST = (2**20, 32, 16)

_FORM = re.compile(rf"{PREFIX}({ID.pattern})_([A-Za-z0-9_-]{{43}})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One line of the file: everything but the secret.

    `check` is the beginning of the secret's SHA-256: of 65,536 guesses one gets as far as the slow
    hash, and of the secret's 256 bits a stolen file tells 16.
    """

    id: str
    name: str
    tenant: str
    scopes: frozenset[str]
    create_time: datetime
    expire_time: datetime | None
    cost: tuple[int, int, int]
    salt: bytes
    hash: bytes
    check: bytes

    def fits(self, secret: str) -> bool:
        """Whether this is the key's secret. Slow, unless it is plainly another."""
        if not hmac.compare_digest(self.check, _check(secret)):
            return False
        return hmac.compare_digest(self.hash, _hash(secret, self.salt, self.cost))

    def as_json(self) -> dict[str, Any]:
        ends = self.expire_time
        return {
            "id": self.id,
            "name": self.name,
            "tenant": self.tenant,
            "scopes": sorted(self.scopes),
            "create_time": self.create_time.isoformat(),
            "expire_time": None if ends is None else ends.isoformat(),
            "cost": list(self.cost),
            "salt": self.salt.hex(),
            "hash": self.hash.hex(),
            "check": self.check.hex(),
        }

    @classmethod
    def from_json(cls, value: Any) -> ApiKey:
        """Raises ValueError, which says what is wrong."""
        fields = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(value, dict) or sorted(value) != sorted(fields):
            raise ValueError(f"it must be an object with {', '.join(fields)}")
        cost = tuple(value["cost"])
        if len(cost) != 3 or any(
            type(n) is not int or not 0 < n <= most for n, most in zip(cost, MAX_COST, strict=True)
        ):
            raise ValueError(f"cost must be three numbers, each at most {MAX_COST}, got {cost}")
        ends = value["expire_time"]
        _check_about(value["name"], value["tenant"], value["scopes"])
        if not isinstance(value["id"], str) or not ID.fullmatch(value["id"]):
            raise ValueError("id must be 12 hexadecimal digits")
        return cls(
            id=value["id"],
            name=value["name"],
            tenant=value["tenant"],
            scopes=frozenset(value["scopes"]),
            create_time=_moment(value["create_time"]),
            expire_time=None if ends is None else _moment(ends),
            cost=cost,
            salt=bytes.fromhex(value["salt"]),
            hash=bytes.fromhex(value["hash"]),
            check=bytes.fromhex(value["check"]),
        )


def make(
    *,
    name: str,
    tenant: str,
    scopes: Iterable[str],
    create_time: datetime,
    expire_time: datetime | None,
) -> tuple[ApiKey, str]:
    """A new key, and the text that its holder sends, which nobody can make again.

    Raises ValueError for what a key can't have.
    """
    scopes = list(scopes)
    _check_about(name, tenant, scopes)
    if not scopes:
        raise ValueError(f"a key must have one or more of the scopes {', '.join(sorted(SCOPES))}")
    secret, salt = secrets.token_urlsafe(SECRET_BYTES), secrets.token_bytes(16)
    key = ApiKey(
        id=secrets.token_hex(6),
        name=name,
        tenant=tenant,
        scopes=frozenset(scopes),
        create_time=create_time,
        expire_time=expire_time,
        cost=COST,
        salt=salt,
        hash=_hash(secret, salt, COST),
        check=_check(secret),
    )
    return key, f"{PREFIX}{key.id}_{secret}"


def parse(credential: str) -> tuple[str, str] | None:
    """Id and secret of a text that has a key's form."""
    found = _FORM.fullmatch(credential)
    return None if found is None else (found[1], found[2])


def _check_about(name: object, tenant: object, scopes: object) -> None:
    """What a key says of its holder. Raises ValueError."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"name must be at most 100 printable characters, got {name!r:.120}")
    check_rights(tenant, scopes)


def _check(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()[:CHECK_BYTES]


def _hash(secret: str, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    n, r, p = cost
    room = 256 * n * r * p + 2**20
    return hashlib.scrypt(secret.encode(), salt=salt, n=n, r=r, p=p, maxmem=room, dklen=32)


def _moment(text: object) -> datetime:
    moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"times must be as in 2026-11-26T12:00:00+00:00, got {text!r:.100}")
    return moment
