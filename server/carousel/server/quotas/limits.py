"""Limits: what the file of quotas says.

    [default]                # every tenant
    sessions = 1000
    steps_per_second = 50_000

    [tenants.acme]           # in place of what the default says
    sessions = 20_000
    dataset_bytes = "10GiB"

What is not there is not limited. The operator, the empty tenant, has no limits.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from carousel.server.names import is_tenant

_SIZE = TypeAdapter(ByteSize)
MOST = 2**62


class LimitsError(Exception):
    """The file of quotas can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one tenant; None: no limit."""

    sessions: int | None = None  # that are live
    state_bytes: int | None = None  # of live sessions: present, kept and bookmarked states
    steps_per_second: int | None = None
    streams: int | None = None  # StreamSteps and Generate calls that are open
    queued_steps: int | None = None  # items that wait, of all models; a chunk is one
    jobs: int | None = None  # that wait or run
    dataset_bytes: int | None = None
    model_bytes: int | None = None  # of all versions in the store

    def get(self, quota: str) -> int | None:
        found: int | None = getattr(self, quota)
        return found


QUOTAS = tuple(field.name for field in fields(Limits))


@dataclass(frozen=True, slots=True)
class LimitsFile:
    """The default, and what stands in its place for single tenants."""

    default: Limits = Limits()
    tenants: Mapping[str, Limits] | None = None

    def of(self, tenant: str) -> Limits:
        if not tenant:
            return Limits()
        return (self.tenants or {}).get(tenant, self.default)


def read(file: Path) -> LimitsFile:
    """Raises LimitsError."""
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise LimitsError(f"the file of quotas {file} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LimitsError(f"the file of quotas {file} is no TOML: {error}") from None
    if unknown := sorted(said.keys() - {"default", "tenants"}):
        raise LimitsError(f"{file} may have [default] and [tenants.NAME], got {unknown[0]!r}")
    default = _limits(Limits(), said.get("default", {}), f"{file}: default")
    tenants = {}
    for name, table in _table(said.get("tenants", {}), f"{file}: tenants").items():
        if not is_tenant(name):
            raise LimitsError(f"{file}: a tenant is 1 to 63 of a-z, 0-9 and '-', got {name!r}")
        tenants[name] = _limits(default, table, f"{file}: tenants.{name}")
    return LimitsFile(default, tenants)


def _table(said: object, where: str) -> Mapping[str, object]:
    if not isinstance(said, dict):
        raise LimitsError(f"{where} must be a table, got {said!r}")
    return said


def _limits(base: Limits, said: object, where: str) -> Limits:
    table = _table(said, where)
    if unknown := sorted(table.keys() - set(QUOTAS)):
        raise LimitsError(f"{where} may have {', '.join(QUOTAS)}, got {unknown[0]!r}")
    return replace(
        base, **{name: _limit(value, f"{where}.{name}") for name, value in table.items()}
    )


def _limit(value: object, where: str) -> int:
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        limit = int(_SIZE.validate_python(value)) if where.endswith("_bytes") else int(value)
        if isinstance(value, str) and not where.endswith("_bytes"):
            raise ValueError
    except (ValueError, ValidationError):
        limit = -1
    if not 0 <= limit <= MOST:
        allowed = "a size such as 10GiB" if where.endswith("_bytes") else "a whole number"
        raise LimitsError(f"{where} must be {allowed}, of at least 0, got {value!r}")
    return limit
