"""Writes group after group to a file and says so: `python -m tests.server.stores.writer PATH [N]`.

For ever, to be killed, or up to group N. Each line on the standard output is the number of a group
that was accepted.
"""

from __future__ import annotations

import sys

from carousel.server.stores import Entry, StateStore
from carousel.server.stores.sqlite import SqliteStore
from tests.server.stores.model import batch

PATIENCE = 120.0  # seconds: a busy machine is no fault of the store
SESSIONS = [f"session-{number}" for number in range(40)]
HANDLE = 2**64 - 1


def group(number: int) -> list[Entry]:
    """All sessions, each with data that tells which group it is of, and is large enough to tear."""
    return [
        Entry(name, HANDLE, number, 1e9 + number, f"{name} {number} ".encode() * 500)
        for name in SESSIONS
    ]


def write_group(store: StateStore, number: int) -> None:
    """The first one creates the sessions. Raises where one is refused."""
    entries = group(number)
    formers = [HANDLE if number else 0] * len(entries)
    if refused := store.write(batch(*entries, formers=formers)):
        raise RuntimeError(f"group {number} was refused at {refused}")


def group_in(store: StateStore) -> int:
    """Which group the store holds, whole; -1: none."""
    found = store.read(SESSIONS)
    if not found:
        return -1
    number = found[SESSIONS[0]].revision
    assert list(found[name] for name in SESSIONS) == group(number)
    return number


def main() -> None:
    store = SqliteStore(sys.argv[1], busy_timeout=PATIENCE)
    last = int(sys.argv[2]) if len(sys.argv) > 2 else sys.maxsize
    for number in range(group_in(store) + 1, last + 1):
        write_group(store, number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
