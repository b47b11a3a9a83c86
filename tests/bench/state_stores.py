"""Entries a second of the state stores: `python -m tests.bench.state_stores`.

One writer goes on with 4,096 sessions of 8 KiB, a batch at a time, each batch durable before the
next. By turns: both stores; what a store in SQLite would be with `executemany`, a row a call; and
an append to a file with fdatasync, the bound of the disk. Each is measured alone and beside a
Python thread that counts, and so is what that thread keeps of its pace: sqlite3 gives up the
interpreter's lock and takes it back at every call, and the server's other threads want it too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from carousel.server.stores import Batch, StateStore, open_store
from carousel.server.stores.sqlite import WRITE, SqliteStore
from tests.server.stores.valkey_process import ValkeyProcess, valkey_binary

SESSIONS = 4096
BYTES = 8192
BATCHES = (64, 256, 1024)

Write = Callable[[Batch], object]


class RowByRow(SqliteStore):
    """The same statement, a row a call; for sessions that go on, none refused."""

    def write(self, batch: Batch) -> list[int]:
        handles = [handle - (1 << 64) for handle in batch.handles]
        columns = (batch.ids, handles, handles, batch.revisions, batch.expire_times, batch.data)
        with self._opened() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(WRITE.format(rows="(?,?,?,?,?,?)"), zip(*columns, strict=True))
            connection.execute("COMMIT")
        return []


class Batches:
    """Batches of sessions drawn at random, each with another state of its own at every write."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        self._states = [self._random.randbytes(BYTES) for _ in range(64)]
        self._revision = 0

    def next(self, size: int) -> Batch:
        return self.of(self._random.sample(range(SESSIONS), size), new=False)

    def of(self, numbers: list[int], *, new: bool) -> Batch:
        self._revision += 1
        handles = [(1 << 64) - 1 - number for number in numbers]
        return Batch(
            ids=[f"session-{number:020d}" for number in numbers],
            formers=[0] * len(numbers) if new else handles,
            handles=handles,
            revisions=[self._revision] * len(numbers),
            expire_times=[1.7e9 + self._revision] * len(numbers),
            data=[self._states[(number + self._revision) % 64] for number in numbers],
        )


class Counter:
    """A thread that counts, in Python."""

    def __init__(self) -> None:
        self._count = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stopping:
            self._count += 1

    @contextmanager
    def running(self) -> Iterator[Callable[[], int]]:
        self._thread.start()
        try:
            yield lambda: self._count
        finally:
            self._stopping = True
            self._thread.join()


def rate(write: Write, batches: Batches, size: int, seconds: float) -> float:
    """Entries a second."""
    begin, written = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        write(batches.next(size))
        written += size
    return written / (time.perf_counter() - begin)


def beside(write: Write, batches: Batches, size: int, seconds: float) -> tuple[float, float]:
    """Entries a second beside a thread that counts, and what it keeps of its pace when alone."""
    with Counter().running() as count:
        begin = time.perf_counter()
        found = rate(write, batches, size, seconds)
        pace = count() / (time.perf_counter() - begin)
        began, so_far = time.perf_counter(), count()
        time.sleep(seconds / 2)
        alone = (count() - so_far) / (time.perf_counter() - began)
    return found, pace / alone


def appending(folder: Path) -> Write:
    """Write to the end of a file, over again from its start when it is large."""
    file = os.open(folder / "appended", os.O_CREAT | os.O_WRONLY, 0o600)

    def write(batch: Batch) -> None:
        if os.lseek(file, 0, os.SEEK_CUR) > SESSIONS * BYTES:
            os.lseek(file, 0, os.SEEK_SET)
        os.writev(file, list(batch.data))
        os.fdatasync(file)

    return write


def arms(folder: Path, stack: ExitStack) -> dict[str, Write]:
    """What is measured; the stores hold all sessions already."""
    stores: dict[str, StateStore] = {
        "sqlite": open_store(str(folder / "sessions.sqlite")),
        "sqlite, executemany": RowByRow(folder / "by-row.sqlite"),
    }
    binary = valkey_binary()
    if binary is not None:
        valkey = ValkeyProcess(binary, folder)
        stack.callback(valkey.kill)
        stores["valkey"] = open_store(valkey.url)
    for store in stores.values():
        stack.callback(store.close)
        for start in range(0, SESSIONS, 256):
            first = Batches().of(list(range(start, start + 256)), new=True)
            if isinstance(store, RowByRow):
                SqliteStore.write(store, first)
            else:
                store.write(first)
    return {"append, fdatasync": appending(folder)} | {
        name: store.write for name, store in stores.items()
    }


def measure(folder: Path, rounds: int, seconds: float) -> list[dict[str, object]]:
    found: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    with ExitStack() as stack:
        contestants = arms(folder, stack)
        batches = Batches()
        for turn in range(rounds):
            for size in BATCHES:
                names = list(contestants)
                for name in names if turn % 2 == 0 else names[::-1]:
                    write = contestants[name]
                    alone = rate(write, batches, size, seconds)
                    together = beside(write, batches, size, seconds)
                    found.setdefault((size, name), []).append((alone, *together))
    return [
        {"batch": size, "arm": name, "alone": a, "beside": b, "kept": kept}
        for (size, name), samples in sorted(found.items())
        for a, b, kept in [tuple(map(list, zip(*samples, strict=True)))]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.state_stores", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.6, help="of one measurement")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: temporary")
    parser.add_argument("--json", type=Path, help="write the raw figures there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        results = measure(Path(name), arguments.rounds, arguments.seconds)
    print(f"{'batch':>5}  {'':20} {'entries/s':>20} {'beside a thread':>20} {'its pace':>16}")
    for row in results:
        cells = [_spread(row[key]) for key in ("alone", "beside")]  # type: ignore[arg-type]
        kept = _spread(row["kept"], 2)  # type: ignore[arg-type]
        print(f"{row['batch']:>5}  {row['arm']:20} {cells[0]:>20} {cells[1]:>20} {kept:>16}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


def _spread(values: list[float], digits: int = 0) -> str:
    middle = f"{statistics.median(values):,.{digits}f}"
    return f"{middle} ({min(values):,.{digits}f}..{max(values):,.{digits}f})"


if __name__ == "__main__":
    main()
