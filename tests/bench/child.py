"""A child: a process of its own that answers calls over a pipe, with its CPU time and memory."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_SPAWN = multiprocessing.get_context("spawn")
_TICKS = os.sysconf("SC_CLK_TCK")


class ChildFailed(Exception):
    """The child could not do what it was asked; the message is its traceback."""


class Child:
    """Runs `main(pipe, *args)`, which sends what it has to say first and then serves calls."""

    def __init__(self, main: Callable[..., None], *args: Any) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=main, args=(theirs, *args), daemon=True)
        begin = time.monotonic()
        self._process.start()
        theirs.close()
        self.greeting = self._receive()
        self.start_seconds = time.monotonic() - begin

    def ask(self, name: str, *args: Any) -> Any:
        return self.begin(name, *args)()

    def begin(self, name: str, *args: Any) -> Callable[[], Any]:
        """As `ask`, but the answer is waited for by what this gives."""
        self._pipe.send((name, args))
        return self._receive

    def _receive(self) -> Any:
        try:
            good, value = self._pipe.recv()
        except EOFError:
            raise ChildFailed(f"{self._process.name} ended: {self._process.exitcode}") from None
        if not good:
            raise ChildFailed(value)
        return value

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far."""
        return cpu_seconds(self.pid)

    @property
    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End this process, by its id."""
        self._pipe.close()
        self._process.terminate()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(stat[11]) + int(stat[12])) / _TICKS


def answer_calls(pipe: Connection, target: object) -> None:
    """Call the methods of `target` that the parent asks for, until it hangs up."""
    while True:
        try:
            name, args = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send((True, getattr(target, name)(*args)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
