"""Servers that share a model store keep out of each other's way, also those that are killed."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from carousel.errors import StoreUnwritable
from carousel.server import locks
from carousel.server.locks import alone_in
from carousel.server.store import ModelStore
from carousel.server.training.promotion import try_turn
from tests.processes import PATIENCE


def test_aliases_that_two_servers_set_at_once_are_all_there(store: ModelStore, made: Path) -> None:
    store.add("x", made)
    servers = [store, ModelStore(store.root)]
    names = [f"alias-{number}" for number in range(40)]

    def set_alias(number: int) -> None:
        servers[number % 2].set_alias("x", names[number], 1)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(set_alias, range(len(names))))
    assert sorted(store.aliases("x")) == sorted(names)


HOLDER = """
import sys
from contextlib import ExitStack
from pathlib import Path
from carousel.server.locks import alone_in
from carousel.server.training.promotion import try_turn
root = Path(sys.argv[1])
with ExitStack() as held, alone_in(root / "x"):
    print(try_turn(root, held), flush=True)
    sys.stdin.read()
"""


def test_one_promotes_at_a_time_and_one_changes_a_model_until_it_is_killed(
    store: ModelStore, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.0)
    store.add("x", made)
    command = [sys.executable, "-c", HOLDER, str(store.root)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
        ExitStack() as held,
    ):
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"True\n"
            assert not try_turn(store.root, held)
            with pytest.raises(StoreUnwritable, match="others have been changing models/x"):
                store.set_alias("x", "stable", 1)
        finally:
            other.kill()
            other.wait()
        assert try_turn(store.root, held)
        store.set_alias("x", "stable", 1)


def test_a_server_that_is_stopped_in_a_change_of_one_model_holds_up_no_other_model(
    store: ModelStore, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("x", made)
    with ExitStack() as stopped, ThreadPoolExecutor(1) as others:

        def meanwhile(_: float) -> None:
            others.submit(store.add, "y", made).result(PATIENCE)
            stopped.close()

        monkeypatch.setattr(time, "sleep", meanwhile)
        stopped.enter_context(alone_in(store.root / "x"))
        store.set_alias("x", "stable", 1)
    assert store.models() == ["x", "y"]
    assert store.aliases("x") == {"stable": 1}


def test_only_files_that_are_open_for_writing_are_locked_as_nfs_needs_it(
    store: ModelStore, made: Path
) -> None:
    store.add("x", made)
    with ExitStack() as held:
        assert try_turn(store.root, held)
        held.enter_context(alone_in(store.root / "x"))
        held.enter_context(store.stage())
        locked = [handle for handle in handles(store.root) if is_locked(handle)]
        assert len(locked) == 3
        for handle in locked:
            assert stat.S_ISREG(os.fstat(handle).st_mode)
            assert fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    assert store.models() == ["x"]
    assert store.get("x").versions == (1,)
    assert list(handles(store.root)) == []


def test_a_lock_that_fails_leaves_nothing_open(
    store: ModelStore, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("x", made)

    def none_left(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_left)
    with ExitStack() as held:
        with pytest.raises(StoreUnwritable, match="No locks available"):
            try_turn(store.root, held)
        with pytest.raises(StoreUnwritable, match="No locks available"):
            store.set_alias("x", "stable", 1)
        with pytest.raises(StoreUnwritable, match="No locks available"):
            store.stage()
        assert list(handles(store.root)) == []
    assert list(store.root.glob(".staging-*")) == []


def handles(folder: Path) -> Iterator[int]:
    """What this process has open below a folder."""
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the list's own
            continue
        if Path(path).is_relative_to(folder):
            yield int(name)


def is_locked(handle: int) -> bool:
    return "\nlock:" in Path(f"/proc/self/fdinfo/{handle}").read_text()
