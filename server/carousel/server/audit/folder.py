"""Where audit logs lie: `{root}/{session id}/{life}-{token}.{part}.log`.

Those of a tenant lie in `{root}/@{tenant}/`: no id begins so.

Sessions that have an id one after the other have a life each; the token, which the record of a
durable session keeps, says whose it is. A life has one part for each server that had the session.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from carousel.errors import InvalidField
from carousel.server.names import (
    check_id,
    id_of,
    is_id,
    key_of,
    path_of,
    session_name,
    tenant_folder,
    tenants_in,
)

_TOKEN = re.compile(r"[0-9a-f]{16}")
_NAME = re.compile(r"([0-9]{6,})-([0-9a-f]{16})\.([0-9]{4,})\.log")


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One file of a log."""

    life: int
    token: str
    number: int
    path: Path


def new_token() -> str:
    return secrets.token_hex(8)


def folder_of(root: Path, session_id: str) -> Path:
    """The folder of a session's logs, by its key, which is really below the root.

    Raises InvalidField.
    """
    check_id(id_of(session_id), field="name")
    own = path_of(session_id)
    if (root / own).resolve() != root.resolve() / own:
        raise InvalidField(
            f"the audit logs of {session_name(session_id)} lie elsewhere", field="name"
        )
    return root / own


def sessions_in(root: Path) -> list[str]:
    """Keys of the sessions that have a folder."""
    if not root.is_dir():
        return []
    found = [path.name for path in root.iterdir() if is_id(path.name)]
    for tenant in tenants_in(root):
        folders = (root / tenant_folder(tenant)).iterdir()
        found += [key_of(tenant, path.name) for path in folders if is_id(path.name)]
    return found


def parts_in(folder: Path) -> list[Part]:
    """All parts of all lives, in order."""
    if not folder.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted(
        Part(int(found[1]), found[2], int(found[3]), path) for found, path in named if found
    )


def newest_life(parts: list[Part]) -> list[Part]:
    """The parts of the life that began last."""
    return [part for part in parts if part.life == parts[-1].life]


def lives_in(parts: list[Part]) -> Iterator[list[Part]]:
    """The parts of each life, in order."""
    for life in sorted({part.life for part in parts}):
        yield [part for part in parts if part.life == life]


def next_path(folder: Path, token: str) -> tuple[Path, Part | None]:
    """Where a log that begins or goes on now is written, and the part that it goes on from."""
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"a token must be 16 hexadecimal digits, got {token!r}")
    parts = parts_in(folder)
    own = [part for part in parts if part.token == token]
    last = own[-1] if own else None
    life = max((part.life for part in parts), default=0) + 1 if last is None else last.life
    number = 0 if last is None else last.number + 1
    return folder / f"{life:06d}-{token}.{number:04d}.log", last
