"""Every process that this one started, and theirs: how much memory each had at most."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

MIB = 1024**2
LOOK_SECONDS = 0.05
# By a word of the command; others are not named.
ROLES = {
    "serve": "server",
    "train": "carousel train",
    "carousel.server.training.describe": "describing",
    "carousel.server.training.prepare": "preparing",
    "carousel.model.training": "learning",
    "-c": "library",
}


class Watched(threading.Thread):
    """Looks while it is entered. What reads the data is held to the bound by the system.

    The server and the command are not: their threads reserve more than they ever use.
    """

    def __init__(self, bound_mib: int) -> None:
        super().__init__(daemon=True)
        self._bound = bound_mib
        self._own: dict[str, int] = {}  # MiB, by role
        self._all: dict[str, int] = {}
        self._done = threading.Event()

    @property
    def wrong(self) -> list[str]:
        """Roles that had more of their own than the bound."""
        return [
            f"{role} had {mib:,} MiB of its own, {self._bound:,} are allowed"
            for role, mib in self._own.items()
            if mib > self._bound
        ]

    def table(self) -> str:
        rows = [f"  {'process':<16} {'own MiB':>8} {'with maps':>10}"]
        rows += [f"  {r:<16} {m:>8,} {self._all[r]:>10,}" for r, m in sorted(self._own.items())]
        return "\n".join(rows)

    def run(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            for pid in descendants(os.getpid()):
                with suppress(OSError, ValueError, KeyError, StopIteration):
                    self._look(pid)

    def _look(self, pid: int) -> None:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        role = next(role for word, role in ROLES.items() if word in words)
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        own, peak = (int(status[name].split()[0]) // 1024 for name in ("RssAnon", "VmHWM"))
        self._own[role] = max(own, self._own.get(role, 0))
        self._all[role] = max(peak, self._all.get(role, 0))
        if role not in ("server", "carousel train"):
            _, most = resource.prlimit(pid, resource.RLIMIT_DATA)
            resource.prlimit(pid, resource.RLIMIT_DATA, (self._bound * MIB, most))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self.join()


def descendants(pid: int) -> Iterator[int]:
    """Children, and their children."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                yield child
                yield from descendants(child)
