"""Write-behind: whoever waits for the store is told when the store has it, and not before."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from carousel.errors import CarouselError
from carousel.server import write_behind
from carousel.server.departed import Ended
from carousel.server.moved import LITTLE, USUAL, Portion
from carousel.server.store_metrics import StoreMetrics
from carousel.server.stores import Batch
from carousel.server.stores.sqlite import SqliteStore
from carousel.server.table import ASYNC, NO_ROW, SessionTable
from carousel.server.write_behind import WriteBehind
from tests.processes import PATIENCE


def test_an_end_is_waited_for_while_it_is_on_its_way(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "sessions.db")
    table = SessionTable()
    slot = table.insert("one", version=0, row=NO_ROW, ttl=60, lifetime=60, now=0, durability=ASYNC)
    handle = int(table.handle[slot])
    store.write(Batch(["one"], [0], [handle], [1], [60.0], [b"a record"]))
    table.stored_handle[slot], table.revision[slot] = handle, 1
    posted = SimpleQueue[Callable[[], None]]()
    on_its_way, may_write = threading.Event(), threading.Event()

    def before() -> None:
        on_its_way.set()
        assert may_write.wait(PATIENCE)

    behind = WriteBehind(
        table,
        [],
        store,
        post=posted.put,
        deliver=lambda answer: None,
        lose=lambda slot: None,
        metrics=StoreMetrics(CollectorRegistry()),
        before=before,
        interval=0.0,
    )
    behind.start()
    told: list[CarouselError | None] = []
    behind.ended(slot, Ended("one", "models/m/versions/1", 1, "CLOSED", 0, 0.0, 1.0, ASYNC))
    behind.flush()
    assert on_its_way.wait(PATIENCE)
    behind.secure_end("one", told.append)
    assert told == []
    assert behind.is_ending("one")
    may_write.set()
    posted.get(timeout=PATIENCE)()
    assert told == [None]
    behind.stop()
    with_it = SqliteStore(tmp_path / "sessions.db")
    assert with_it.read(["one"])["one"].handle == 0
    with_it.close()


@pytest.mark.parametrize(("longest", "gently"), [(math.inf, LITTLE), (0.0, USUAL)])
def test_beside_who_has_little_few_are_written_at_once_unless_they_have_waited_for_long(
    tmp_path: Path, longest: float, gently: Portion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_behind, "LONGEST_WAIT", longest)
    table = SessionTable()
    store = SqliteStore(tmp_path / "sessions.db")
    behind = WriteBehind(
        table,
        [],
        store,
        post=lambda function: None,
        deliver=lambda answer: None,
        lose=lambda slot: None,
        metrics=StoreMetrics(CollectorRegistry()),
        interval=0.0,
    )
    terms = {"version": 0, "ttl": 60, "lifetime": 60, "now": 0, "durability": ASYNC}
    slots = np.array([table.insert(f"s{row}", row=row, **terms) for row in range(400)])
    written = []
    for little in (True, False):
        behind.touched(slots)
        before = int(table.touched.sum())
        behind.flush(gently=little)
        written.append(before - int(table.touched.sum()))
    assert written == [gently.sessions, USUAL.sessions]
    assert LITTLE.sessions < USUAL.sessions
    store.close()
