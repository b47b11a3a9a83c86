"""Log: one audit log that is being written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carousel.server.audit.entry import NOTHING


@dataclass(slots=True, eq=False)
class Log:
    """The engine's thread makes it; only the writer's thread changes it.

    `number` stands for it in columns. `hash` and `size` are those of its file so far.
    """

    number: int
    session_id: str
    token: str
    durable: bool
    path: Path | None = None
    hash: bytes = NOTHING
    size: int = 0
    over: bool = False  # nothing more will be written
    unwanted: bool = False  # nobody ever had the session
    broken: bool = False  # it could not be written


@dataclass(frozen=True, slots=True)
class Position:
    """How far a log that is being written has come."""

    path: Path
    size: int
    hash: bytes
