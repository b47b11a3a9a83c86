"""The file of API keys: one JSON object a line, changed as a whole and by one at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from carousel.server.access import api_key
from carousel.server.access.api_key import ApiKey
from carousel.server.access.grant import AccessError
from carousel.server.access.private_file import read_private

WHAT = "the file of API keys"

Keys = dict[str, ApiKey]
"""By id, in order of their making."""


def read(file: Path) -> Keys:
    """Raises AccessError, also for a file that others may write."""
    keys: Keys = {}
    for number, line in enumerate(read_private(file, WHAT).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            key = ApiKey.from_json(json.loads(line))
        except (ValueError, TypeError) as error:
            raise AccessError(f"{WHAT} {file} is wrong in line {number}: {error}") from None
        if key.id in keys:
            raise AccessError(f"{WHAT} {file} has the id {key.id} twice")
        keys[key.id] = key
    return keys


@contextlib.contextmanager
def changing(file: Path) -> Iterator[Keys]:
    """The keys, to change; written when the block ends well. Raises AccessError.

    Whoever reads meanwhile finds the file as it was or as it is, never half of it.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(file.with_name(f"{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise AccessError(f"{WHAT} {file} can't be written: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = read(file) if file.exists() else {}
        yield keys
        _write(file, keys)
    finally:
        os.close(lock)


def create(
    file: Path,
    *,
    now: datetime,
    name: str = "",
    tenant: str = "",
    scopes: list[str] | None = None,
    lifetime: timedelta | None = None,
) -> tuple[ApiKey, str]:
    """Add a key; gives it and its text. Raises AccessError, ValueError."""
    ends = None if lifetime is None else now + lifetime
    key, text = api_key.make(
        name=name, tenant=tenant, scopes=scopes or [], create_time=now, expire_time=ends
    )
    with changing(file) as keys:
        keys[key.id] = key
    return key, text


def replace(
    file: Path, old_id: str, *, now: datetime, grace: timedelta, lifetime: timedelta | None = None
) -> tuple[ApiKey, str]:
    """Add a key that may what another may, which ends after a while, if not sooner.

    Raises AccessError, ValueError.
    """
    with changing(file) as keys:
        old = _known(keys, old_id)
        if lifetime is None and old.expire_time is not None:
            lifetime = old.expire_time - old.create_time
        key, text = api_key.make(
            name=old.name,
            tenant=old.tenant,
            scopes=old.scopes,
            create_time=now,
            expire_time=None if lifetime is None else now + lifetime,
        )
        keys[old_id] = _ending(old, now + grace)
        keys[key.id] = key
    return key, text


def revoke(file: Path, key_id: str) -> ApiKey:
    """Take a key out of the file. Raises AccessError, ValueError."""
    with changing(file) as keys:
        key = _known(keys, key_id)
        del keys[key_id]
    return key


def _known(keys: Keys, key_id: str) -> ApiKey:
    if key_id not in keys:
        raise ValueError(f"there is no key with the id {key_id!r:.100}")
    return keys[key_id]


def _ending(key: ApiKey, moment: datetime) -> ApiKey:
    ends = moment if key.expire_time is None else min(moment, key.expire_time)
    return dataclasses.replace(key, expire_time=ends)


def _write(file: Path, keys: Keys) -> None:
    new = file.with_name(f".{file.name}-{secrets.token_hex(8)}")
    try:
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.writelines(f"{json.dumps(key.as_json())}\n" for key in keys.values())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(new, file)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise AccessError(f"{WHAT} {file} can't be written: {error.strerror}") from None
