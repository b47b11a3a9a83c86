"""What a job tells the world: one JSON object a line, appended and flushed."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol


class Emit(Protocol):
    """Takes an event of a type at a step; docs/training.md lists what belongs to each.

    With `again`, it may be one that was told before the process was killed.
    """

    def __call__(self, kind: str, step: int, *, again: bool = False, **values: Any) -> None: ...


class Events:
    """Appends to events.jsonl; a line that a killed process left torn is cut off first.

    `attempt` counts from 1 the processes that began to learn in this folder.
    """

    def __init__(self, path: Path) -> None:
        whole = path.read_bytes() if path.exists() else b""
        whole = whole[: whole.rfind(b"\n") + 1]
        told = _told(whole)
        self.attempt = 1 + sum(kind == "started" for kind, _ in told)
        self._told = set(told)
        self.step = 0  # of the last event written here
        self._file = path.open("ab")
        self._file.truncate(len(whole))

    def emit(self, kind: str, step: int, *, again: bool = False, **values: Any) -> None:
        """Write one event; numbers must be finite, as JSON knows no others."""
        if again and (kind, step) in self._told:
            return
        self.step = step
        event = {"type": kind, "time": time.time(), "attempt": self.attempt, "step": step}
        self._file.write(json.dumps(event | values, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Bring everything to the disk, if there is room."""
        with suppress(OSError):
            os.fsync(self._file.fileno())
        with suppress(OSError):
            self._file.close()


def last_kind(path: Path) -> str | None:
    """The type of the last event in a file that may not be there."""
    told = _told(path.read_bytes()) if path.exists() else []
    return told[-1][0] if told else None


def _told(content: bytes) -> list[tuple[str, int]]:
    """Types and steps of the events in whole lines."""
    whole = content[: content.rfind(b"\n") + 1]
    return [(event["type"], event["step"]) for event in map(json.loads, whole.splitlines())]


def silent(kind: str, step: int, *, again: bool = False, **values: Any) -> None:
    """Tells nobody: for the workers beside the first, and for callers who want weights alone."""
