"""The embedded store: crashes, full disks, damage, other processes."""

from __future__ import annotations

import dataclasses
import re
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Barrier

import pytest

from carousel.errors import StoreUnavailable
from carousel.server.stores import Entry
from carousel.server.stores.sqlite import VERSION, SqliteStore
from tests.server.stores.model import batch
from tests.server.stores.writer import PATIENCE, group_in, write_group

GROUPS = 8  # accepted before a kill


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, busy_timeout=0.0)
    yield store
    store.close()


@contextmanager
def writing(path: Path, *, up_to: int = sys.maxsize) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes group after group."""
    command = [sys.executable, "-m", "tests.server.stores.writer", str(path), str(up_to)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As on a disk that is full: what would make a file larger fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_all_that_was_accepted_survives_the_death_of_the_writer(path: Path) -> None:
    """Killed at any moment, three times over; each time the next one goes on with what is there."""
    accepted = -1
    for _ in range(3):
        with writing(path) as process:
            assert process.stdout is not None
            for _ in range(GROUPS):
                accepted = int(process.stdout.readline())
            process.kill()
            process.wait()
            said = process.stdout.read().split()  # some more, before it died
            accepted = int(said[-1]) if said else accepted
        with closing(SqliteStore(path)) as store:
            assert group_in(store) in (accepted, accepted + 1)  # the last may not have been said


def test_a_batch_is_on_the_disk_before_it_is_called_accepted(path: Path, tmp_path: Path) -> None:
    """A killed process keeps what the kernel has; only its calls show what a power cut would."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    calls = tmp_path / "calls"
    trace = ["strace", "-f", "-y", "-e", "trace=pwrite64,fdatasync,fsync,write", "-o", str(calls)]
    writer = [sys.executable, "-m", "tests.server.stores.writer", str(path), str(GROUPS)]
    subprocess.run([*trace, *writer], stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE)
    dirty: set[str] = set()
    accepted = 0
    for call, number, file in re.findall(r"(\w+)\((\d+)<(.*?)>", calls.read_text()):
        if call == "pwrite64" and not file.endswith("-shm"):  # which is made anew after a crash
            dirty.add(file)
        elif call in ("fdatasync", "fsync"):
            dirty.discard(file)
        elif call == "write" and number == "1":
            accepted += 1
            assert not dirty
    assert accepted == GROUPS + 1


def test_a_full_disk_is_said_and_survived(store: SqliteStore) -> None:
    write_group(store, 0)
    with no_file_larger_than(64 << 10):
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"sessions\.sqlite can't be used: .*disk"):
                write_group(store, 1)
        assert group_in(store) == 0
    write_group(store, 1)
    assert group_in(store) == 1


def test_a_store_that_another_process_holds_is_said_and_survived(
    store: SqliteStore, path: Path
) -> None:
    write_group(store, 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"database is locked \(SQLITE_BUSY\)"):
            write_group(store, 1)
        assert group_in(store) == 0
        other.execute("ROLLBACK")
    write_group(store, 1)


def test_writers_in_two_processes_wait_for_each_other(path: Path) -> None:
    """Each with sessions of its own; both get through."""
    own = [Entry(f"own-{number}", 7, 0, 1e9, b"x" * 9000) for number in range(40)]
    store = SqliteStore(path, busy_timeout=PATIENCE)
    with closing(store), writing(path, up_to=GROUPS) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for revision in range(GROUPS):
            entries = [dataclasses.replace(entry, revision=revision) for entry in own]
            formers = [7 if revision else 0] * len(own)
            assert store.write(batch(*entries, formers=formers)) == []
        assert process.wait(PATIENCE) == 0
        assert group_in(store) == GROUPS


def test_many_can_make_the_same_file_at_once(path: Path) -> None:
    for attempt in range(10):
        here = path.with_name(f"{attempt}.sqlite")
        together = Barrier(4)

        def write(number: int, here: Path = here, together: Barrier = together) -> list[int]:
            with closing(SqliteStore(here)) as store:
                together.wait()
                return store.write(batch(Entry(f"s{number}", 1, 0, 1e9, b""), formers=[0]))

        with ThreadPoolExecutor() as pool:
            assert list(pool.map(write, range(4))) == [[]] * 4
        with closing(SqliteStore(here)) as store:
            assert len(store.page("", 9)) == 4


def test_a_file_that_is_no_database_is_said_and_left_alone(store: SqliteStore, path: Path) -> None:
    path.write_bytes(b"somebody's letters" * 100)
    with pytest.raises(StoreUnavailable, match="file is not a database"):
        store.page("", 1)
    assert path.read_bytes() == b"somebody's letters" * 100
    path.unlink()
    write_group(store, 0)


def test_damage_inside_the_file_is_said(store: SqliteStore, path: Path) -> None:
    write_group(store, 0)
    store.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    with pytest.raises(StoreUnavailable, match="malformed"):
        group_in(store)
    path.write_bytes(whole)
    assert group_in(store) == 0


def test_the_file_of_a_newer_version_is_refused(store: SqliteStore, path: Path) -> None:
    write_group(store, 0)
    store.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {VERSION + 1}")
    newer = rf"newer Carousel: its schema has version {VERSION + 1}, this one knows .* {VERSION} "
    with pytest.raises(StoreUnavailable, match=newer):
        group_in(store)
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {VERSION}")
    assert group_in(store) == 0


def test_the_files_are_the_owner_s_alone(store: SqliteStore, path: Path) -> None:
    write_group(store, 0)
    files = list(path.parent.iterdir())
    assert len(files) == 3  # with the log and its index
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_folder_that_can_t_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = SqliteStore(tmp_path / "file" / "sessions.sqlite")
    with pytest.raises(StoreUnavailable, match=r"can't be used: .*file"):
        write_group(store, 0)
    (tmp_path / "file").unlink()
    write_group(store, 0)
    store.close()
