"""The reins: whoever asks gets them between two turns, or soon waits for them no longer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from carousel.server import reins
from carousel.server.reins import Reins
from tests.processes import PATIENCE, until


@pytest.fixture
def held() -> Reins:
    """In somebody's hands."""
    one = Reins()
    one.acquire()
    return one


@pytest.fixture
def other() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_they_are_taken_only_where_nobody_holds_them(held: Reins) -> None:
    assert not held.take()
    held.release()
    assert held.take()


def test_whoever_asks_has_them_until_it_lets_go(
    held: Reins, other: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reins, "LONGEST_WAIT", PATIENCE)
    did, go_on = list[str](), threading.Event()

    def work() -> None:
        assert held.ask()
        did.append("asked")
        assert go_on.wait(PATIENCE)
        did.append("let go")
        held.release()

    asking = other.submit(work)
    until(lambda: held.asked)
    threading.Timer(0.05, go_on.set).start()
    held.lend()
    did.append("back")
    asking.result()
    assert did == ["asked", "let go", "back"]
    assert not held.asked
    assert not held.take(), "their first holder has them"


def test_they_are_not_let_go_of_where_nobody_asks(
    held: Reins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "release", pytest.fail)
    held.lend()
    assert not held.take()


def test_after_a_wait_in_vain_nobody_waits_for_a_while(
    held: Reins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reins, "VAIN_SECONDS", PATIENCE)
    waits, lock = list[float](), held._lock

    class Seen:
        def acquire(self, *, timeout: float) -> bool:
            waits.append(timeout)
            return lock.acquire(timeout=0.001)

    monkeypatch.setattr(held, "_lock", Seen())
    assert not held.ask()
    assert not held.ask()
    assert waits == [reins.LONGEST_WAIT]
    held._vain_until -= PATIENCE
    lock.release()
    assert held.ask()
    assert len(waits) == 2
    lock.release()
    assert held.ask(), "it was not in vain"
