"""Retention: audit logs are deleted when their sessions have been over for long enough."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carousel.server.audit.entry import CHECK, END, HASH_BYTES, HEADER, HEADER_BYTES, MAGIC
from carousel.server.audit.folder import Part, folder_of, lives_in, parts_in, sessions_in
from carousel.server.hall import Hall
from carousel.server.records import Record

logger = logging.getLogger("carousel.input_log")

SWEEP_SECONDS = 600.0
LAST_BYTES = HEADER_BYTES + HASH_BYTES  # of an END


@dataclass(frozen=True, slots=True)
class Life:
    """One log that has not been written for long; `ended`: it says that its session is over."""

    session_id: str
    parts: Sequence[Part]
    ended: bool

    @property
    def token(self) -> str:
        return self.parts[-1].token


class Retention:
    """Deletes logs `audit_keep` seconds after the end of their sessions.

    A log without an end, of a session that was lost with its server, goes so long after it was
    last written.
    """

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._due = 0.0  # time.monotonic

    async def sweep_when_due(self) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + SWEEP_SECONDS
            await self.sweep()

    async def sweep(self) -> int:
        """Delete what was kept long enough; how many logs that were."""
        root = self._hall.settings.audit_folder
        before = self._hall.engine.clock() - self._hall.settings.audit_keep
        lives = await asyncio.to_thread(old, root, before)
        over = [life for life in lives if await self._may_go(life)]
        if over:
            await asyncio.to_thread(delete, over)
            logger.info("%d audit logs were kept long enough", len(over))
        return len(over)

    async def _may_go(self, life: Life) -> bool:
        """Whether nobody can go on with it: not here, and not from the store."""
        if life.ended:
            return True
        table = self._hall.engine.table
        log = table.audited.get(table.slots.get(life.session_id, -1))
        if log is not None and log.token == life.token:
            return False
        record = await self._hall.at_rest.find(life.session_id)
        return not isinstance(record, Record) or record.more.get("audit") != life.token


def old(root: Path, before: float) -> list[Life]:
    """Logs whose session ended, or that were last written, before a time."""
    keys = sessions_in(root)
    lives = [(key, life) for key in keys for life in lives_in(parts_in(folder_of(root, key)))]
    found = []
    for name, parts in lives:
        with contextlib.suppress(OSError):  # it went meanwhile
            ended = end_time(parts[-1].path)
            last = parts[-1].path.stat().st_mtime if ended is None else ended
            if last < before:
                found.append(Life(name, parts, ended is not None))
    return found


def end_time(path: Path) -> float | None:
    """When the session of a log ended; None when its last entry is no end."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < LAST_BYTES:
            return None
        file.seek(-LAST_BYTES, os.SEEK_END)
        magic, kind, _, _, length, _, _, moment = HEADER.unpack(file.read(HEADER.size))
        ended = magic == MAGIC and kind == END and not length
        return float(moment) if ended and len(file.read(CHECK.size)) == CHECK.size else None


def delete(lives: Sequence[Life]) -> None:
    """The last part first: what is left of it, should this be cut off, is found again."""
    for life in lives:
        for part in reversed(life.parts):
            part.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other logs lie there
            life.parts[0].path.parent.rmdir()
