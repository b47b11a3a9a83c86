"""Resource names, keys and page tokens: parsed, checked and made in one place.

Ids are a tenant's own, so within the server, in its stores and in its records a resource is known
by its key, `{tenant}/{id}`, or the id alone where it is the operator's. Names, which callers see
and give, say nothing of the tenant.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from carousel.errors import InvalidField

DEFAULT_PAGE = 50
MAX_PAGE = 1000
MAX_VERSION = 2**32 - 1
MAX_NAME = 256

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_TENANT = re.compile(r"[a-z0-9-]{1,63}")
_ALIAS = re.compile(r"[a-z][a-z0-9-]{0,62}")
_NUMBER = re.compile(r"[1-9][0-9]{0,18}")
_KEY = re.compile(r"([a-z0-9-]{1,63}/)?[a-z0-9-]{1,63}")
_SHOWN = 80


class Owned(Protocol):
    """A message about a resource that has an owner."""

    name: str
    tenant: str


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model alone, one version of it, or one alias of it; `model` is its key."""

    model: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, name: str, *, field: str = "name") -> ModelRef:
        """`models/x`, `models/x/versions/3` or `models/x/aliases/stable`. Raises InvalidField."""
        match _parts(name):
            case ["models", model] if is_id(model):
                return cls(model)
            case ["models", model, "versions", number] if is_id(model) and is_number(number):
                return cls(model, version=int(number))
            case ["models", model, "aliases", alias] if is_id(model) and _ALIAS.fullmatch(alias):
                return cls(model, alias=alias)
        raise _invalid(
            field,
            "models/{model}, models/{model}/versions/{number} or models/{model}/aliases/{alias}",
            name,
        )

    @classmethod
    def of_version(cls, key: str) -> ModelRef:
        """What a `version_key` says. Raises InvalidField."""
        match key.split("/"):
            case ["models", tenant, model, "versions", _]:
                ref = cls.parse(key.replace(f"{tenant}/", "", 1))
                return replace(ref, model=key_of(tenant, model))
        return cls.parse(key)

    def of(self, tenant: str) -> ModelRef:
        """What a tenant means by this name, if it is a model of its own."""
        return replace(self, model=key_of(tenant, self.model)) if tenant else self

    def covers(self, key: str) -> bool:
        """Whether this model, or this version, is meant by a `version_key`."""
        if self.version is not None:
            return key == version_key(self.model, self.version)
        return self.alias is None and key.startswith(f"models/{self.model}/versions/")

    def __str__(self) -> str:
        if self.version is not None:
            return version_name(self.model, self.version)
        if self.alias is not None:
            return f"{model_name(self.model)}/aliases/{self.alias}"
        return model_name(self.model)


def key_of(tenant: str, resource: str) -> str:
    """The key of a tenant's resource with this id."""
    return f"{tenant}/{resource}" if tenant else resource


def owner_of(key: str) -> str:
    """The tenant in a key; empty: the operator."""
    return key.rpartition("/")[0]


def id_of(key: str) -> str:
    return key.rpartition("/")[2]


def model_name(key: str) -> str:
    return f"models/{id_of(key)}"


def version_name(key: str, number: int) -> str:
    return f"models/{id_of(key)}/versions/{number}"


def version_key(key: str, number: int) -> str:
    """A version for the server's own records, whoever the model belongs to."""
    return f"models/{key}/versions/{number}"


def shown(version: str) -> str:
    """The name in a `version_key`."""
    return str(ModelRef.of_version(version))


def session_name(key: str) -> str:
    return f"sessions/{id_of(key)}"


def session_names(keys: Sequence[str]) -> list[str]:
    """Names of one tenant's sessions."""
    begin = len(keys[0]) - len(id_of(keys[0]))
    return [f"sessions/{key[begin:]}" for key in keys]


def dataset_name(key: str) -> str:
    return f"datasets/{id_of(key)}"


def job_name(key: str) -> str:
    return f"jobs/{id_of(key)}"


def session_key(session: Owned) -> str:
    """The key of a session that is described in a message."""
    return key_of(session.tenant, session.name.removeprefix("sessions/"))


def model_id(name: str, *, field: str = "name") -> str:
    """The id in `models/{model}`. Raises InvalidField."""
    match _parts(name):
        case ["models", model] if is_id(model):
            return model
    raise _invalid(field, "models/{model}", name)


def model_version(name: str, *, field: str = "name") -> tuple[str, int]:
    """Id and number in `models/{model}/versions/{number}`. Raises InvalidField."""
    match _parts(name):
        case ["models", model, "versions", number] if is_id(model) and is_number(number):
            return model, int(number)
    raise _invalid(field, "models/{model}/versions/{number}", name)


def session_id(name: str, *, field: str = "name") -> str:
    """The id in `sessions/{id}`. Raises InvalidField."""
    match _parts(name):
        case ["sessions", session] if is_id(session):
            return session
    raise _invalid(field, "sessions/{id}", name)


def dataset_id(name: str, *, field: str = "name") -> str:
    """The id in `datasets/{id}`. Raises InvalidField."""
    match _parts(name):
        case ["datasets", dataset] if is_id(dataset):
            return dataset
    raise _invalid(field, "datasets/{id}", name)


def job_id(name: str, *, field: str = "name") -> str:
    """The id in `jobs/{id}`. Raises InvalidField."""
    match _parts(name):
        case ["jobs", job] if is_id(job):
            return job
    raise _invalid(field, "jobs/{id}", name)


def job_checkpoint(name: str, *, field: str = "name") -> tuple[str, int | None]:
    """Job and step in `jobs/{id}/checkpoints/{step}`; None: the best. Raises InvalidField."""
    match _parts(name):
        case ["jobs", job, "checkpoints", "best"] if is_id(job):
            return job, None
        case ["jobs", job, "checkpoints", step] if is_id(job) and (step == "0" or is_number(step)):
            return job, int(step)
    raise _invalid(field, "jobs/{id}/checkpoints/{step} or jobs/{id}/checkpoints/best", name)


def path_of(key: str) -> Path:
    """Where a resource lies below a root: a tenant's in a folder of the tenant's."""
    tenant = owner_of(key)
    return Path(tenant_folder(tenant), id_of(key)) if tenant else Path(key)


def tenant_folder(tenant: str) -> str:
    """No id begins so."""
    return f"@{tenant}"


def tenants_in(root: Path) -> list[str]:
    """Tenants that have a folder below a root, in order."""
    try:
        with os.scandir(root) as found:
            own = [one.name for one in found if one.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(name[1:] for name in own if name[0] == "@" and is_tenant(name[1:]))


def is_tenant(text: str) -> bool:
    return _TENANT.fullmatch(text) is not None


def _parts(name: str) -> list[str]:
    """The parts of a name; none of what is longer than any name: a text of a million slashes would
    become as many.
    """
    return name.split("/") if len(name) <= MAX_NAME else []


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def check_id(text: str, *, field: str) -> str:
    """The id as it was given. Raises InvalidField."""
    if not is_id(text):
        raise _invalid(field, "1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit", text)
    return text


def check_alias(text: str, *, field: str = "alias") -> str:
    """The alias as it was given. Raises InvalidField."""
    if not _ALIAS.fullmatch(text):
        raise _invalid(field, "1 to 63 of a-z, 0-9 and '-', beginning with a letter", text)
    return text


def page_size(asked: int) -> int:
    """How many to return: 0 is 50, anything above 1,000 is 1,000."""
    return min(asked or DEFAULT_PAGE, MAX_PAGE)


def page_token(last_key: str) -> str:
    """The token of the page that comes after this key."""
    return base64.urlsafe_b64encode(last_key.encode()).decode().rstrip("=")


def page_key(token: str, *, field: str = "page_token") -> str:
    """The key to go on after; empty for the first page. Raises InvalidField."""
    if not token:
        return ""
    try:
        if len(token) > MAX_NAME:
            raise ValueError
        key = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        key = ""
    # Encoding it again also refuses what lenient base64 lets pass.
    if not _KEY.fullmatch(key) or page_token(key) != token:
        raise _invalid(field, "the next_page_token of the page before", token)
    return key


def page_number(token: str, *, most: int = MAX_VERSION, field: str = "page_token") -> int:
    """As page_key, where the keys are numbers; 0 for the first page."""
    key = page_key(token, field=field)
    if key and not (_NUMBER.fullmatch(key) and int(key) <= most):
        raise _invalid(field, "the next_page_token of the page before", token)
    return int(key or 0)


def is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and int(text) <= MAX_VERSION


def _invalid(field: str, allowed: str, given: str) -> InvalidField:
    shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}..."
    return InvalidField(f"{field} must be {allowed}, got {shown!r}", field=field)
