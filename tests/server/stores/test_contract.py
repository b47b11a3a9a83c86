"""What holds for every state store."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from carousel.server.stores import ENDED, Entry, StateStore, open_store
from tests.server.stores.conftest import Open
from tests.server.stores.model import Model, batch

A, B, C = 11, 2**63, 2**64 - 1  # handles of incarnations, one after another


def entry(
    session_id: str = "s",
    handle: int = A,
    revision: int = 0,
    *,
    expire: float = 1e9,
    data: str = "",
) -> Entry:
    return Entry(session_id, handle, revision, expire, (data or session_id).encode())


def put(store: StateStore, entry: Entry, former: int) -> bool:
    """Whether the store accepted it."""
    return store.write(batch(entry, formers=[former])) == []


def get(store: StateStore, session_id: str = "s") -> Entry | None:
    return store.read([session_id]).get(session_id)


def test_an_incarnation_is_created_goes_on_is_taken_over_and_ends(store: StateStore) -> None:
    assert get(store) is None
    for written, former in [
        (entry(handle=A, revision=1, expire=1e9, data="created"), 0),
        (entry(handle=A, revision=2, expire=2e9, data="went on"), A),
        (entry(handle=B, revision=3, expire=3e9, data="taken over"), A),
        (entry(handle=ENDED, revision=4, expire=4e9, data="ended"), B),
    ]:
        assert put(store, written, former)
        assert get(store) == written
        assert store.page("", 9) == ([written] if written.handle != ENDED else [])


def test_an_ended_id_can_be_used_again_and_a_live_one_not(store: StateStore) -> None:
    assert put(store, entry(handle=A), 0)
    assert not put(store, entry(handle=B), 0)
    assert put(store, entry(handle=ENDED, revision=7), A)
    again = entry(handle=B, data="again")
    assert put(store, again, 0)
    assert get(store) == again
    assert store.page("", 9) == [again]
    store.forget(1e12)  # what it was before must not take it along
    assert get(store) == again


def test_a_former_handle_is_fenced_for_ever(store: StateStore) -> None:
    put(store, entry(handle=A), 0)
    assert put(store, entry(handle=B, revision=1), A)
    taken = get(store)
    assert not put(store, entry(handle=A, revision=99), A)
    assert not put(store, entry(handle=C, revision=99), A)
    assert not put(store, entry(handle=ENDED, revision=99), A)
    assert get(store) == taken
    assert put(store, entry(handle=ENDED, revision=2), B)
    assert not put(store, entry(handle=A, revision=99), A)
    assert not put(store, entry(handle=A, revision=99), B)


def test_what_is_absent_can_only_be_created_or_ended(store: StateStore) -> None:
    assert not put(store, entry(handle=A), A)
    assert not put(store, entry(handle=B), A)
    assert get(store) is None
    assert put(store, entry(handle=ENDED), A)
    assert get(store) == entry(handle=ENDED)


def test_the_same_write_again_is_accepted_at_every_point_of_a_life(store: StateStore) -> None:
    for written, former in [
        (entry(handle=A, revision=0), 0),
        (entry(handle=A, revision=1), A),
        (entry(handle=B, revision=2), A),
        (entry(handle=ENDED, revision=3), B),
    ]:
        for _ in range(3):
            assert put(store, written, former)
            assert get(store) == written
    store.forget(1e9)
    assert put(store, entry(handle=ENDED, revision=3), B)  # though it was forgotten meanwhile


def test_who_takes_over_or_ends_must_know_the_last_write(store: StateStore) -> None:
    """One that looked before the predecessor wrote once more would undo what is durable."""
    put(store, entry(handle=A, revision=1), 0)
    put(store, entry(handle=A, revision=2, expire=2e9), A)
    last = get(store)
    assert not put(store, entry(handle=B, revision=2), A)
    assert not put(store, entry(handle=ENDED, revision=2), A)
    assert get(store) == last
    assert put(store, entry(handle=B, revision=3), A)


def test_an_incarnation_never_goes_back(store: StateStore) -> None:
    put(store, entry(handle=A, revision=0), 0)
    put(store, entry(handle=A, revision=2**33), A)
    assert not put(store, entry(handle=A, revision=2**33 - 1), A)
    assert not put(store, entry(handle=A, revision=0), 0)  # its creation, late
    assert put(store, entry(handle=A, revision=2**63 - 2), A)
    assert not put(store, entry(handle=A, revision=2**33), A)
    assert put(store, entry(handle=B, revision=2**63 - 1), A)


@pytest.mark.parametrize("handle", [1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_handles_are_64_bits_without_a_sign(store: StateStore, handle: int) -> None:
    assert put(store, entry(handle=handle), 0)
    assert not put(store, entry(handle=handle ^ 1, revision=1), handle ^ 1)
    assert not put(store, entry(handle=handle ^ 1 << 63, revision=1), handle ^ 1 << 62)
    assert put(store, entry(handle=handle, revision=1), handle)
    assert get(store) == entry(handle=handle, revision=1)


def test_refused_places_are_exact_and_the_others_written(store: StateStore) -> None:
    """2,000 entries, of which every third comes from a fenced writer."""
    ids = [f"session-{number:04d}" for number in range(2000)]
    random.Random(3).shuffle(ids)
    assert store.write(batch(*(entry(i, handle=A) for i in ids), formers=[0] * 2000)) == []
    taken = [entry(i, handle=B, revision=1) for i in ids[::3]]
    assert store.write(batch(*taken, formers=[A] * len(taken))) == []
    late = [entry(i, handle=A, revision=2, data="late") for i in ids]
    assert store.write(batch(*late)) == list(range(0, 2000, 3))
    expected = {one.session_id: one for one in [*late, *taken]}
    assert store.read(ids) == expected
    assert store.page("", 3000) == [expected[i] for i in sorted(ids)]


def test_a_batch_of_refused_entries_alone_and_an_empty_one(store: StateStore) -> None:
    assert store.write(batch(entry("a"), entry("b"), formers=[A, A])) == [0, 1]
    assert store.write(batch()) == []
    assert store.read([]) == {}
    assert store.page("", 9) == []


def test_pages_are_in_order_of_ids_and_together_all_that_live(store: StateStore) -> None:
    names = ["a", "a-", "a0", "aa", "b", "ba", "z", "ä", "\N{CJK UNIFIED IDEOGRAPH-4E00}"]
    names += [f"n-{number}" for number in range(40)]
    store.write(batch(*(entry(name) for name in names), formers=[0] * len(names)))
    put(store, entry("n-7", handle=ENDED, revision=1), A)
    found: list[Entry] = []
    while page := store.page(found[-1].session_id if found else "", 7):
        found += page
    assert [one.session_id for one in found] == sorted(set(names) - {"n-7"})
    assert store.page("a", 2) == [entry("a-"), entry("a0")]
    assert store.page("a-0", 1) == [entry("a0")]  # behind one that there is not


def test_expired_are_those_that_live_and_whose_time_is_up(store: StateStore) -> None:
    times = {"past": 1e9, "now": 1e9 + 0.125, "later": 1e9 + 0.25, "ended": 1e9}
    for name, time in times.items():
        put(store, entry(name, expire=time), 0)
    put(store, entry("ended", handle=ENDED, expire=1e9, revision=1), A)
    put(store, entry("extended", expire=1e9), 0)
    put(store, entry("extended", expire=1e9 + 9, revision=1), A)
    found = {one.session_id for one in store.expired(1e9 + 0.125, 9)}
    assert found == {"past", "now"}
    assert len(store.expired(1e9 + 0.125, 1)) == 1
    assert store.expired(1e9 - 1, 9) == []


def test_forgotten_are_those_that_ended_and_whose_time_is_up(store: StateStore) -> None:
    ended = [entry(f"e-{number}", handle=ENDED, expire=1e9 + number) for number in range(2500)]
    store.write(batch(*ended, formers=[0] * len(ended)))
    put(store, entry("live", expire=0.5), 0)
    store.forget(1e9 + 2100)
    left = store.read([*(one.session_id for one in ended), "live"])
    assert set(left) == {"live"} | {f"e-{number}" for number in range(2101, 2500)}
    assert put(store, entry("e-0", handle=A), 0)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", bytes(range(256)), b"\r\n$3\r\n", random.Random(4).randbytes(4 << 20)],
    ids=["empty", "nul", "every byte", "the protocol's own", "4 MiB"],
)
def test_any_bytes_come_back(store: StateStore, data: bytes) -> None:
    there = dataclasses.replace(entry(), data=data)
    put(store, there, 0)
    assert get(store) == there
    assert store.page("", 1) == [there]
    assert store.expired(1e9, 1) == [there]


@pytest.mark.parametrize("time", [0.0, 1764140000.123456, 1e300, float("inf")])
def test_times_are_exact(store: StateStore, time: float) -> None:
    put(store, entry(expire=time), 0)
    assert get(store) == entry(expire=time)
    assert store.expired(time, 1) == [entry(expire=time)]


def test_two_openers_of_one_store_fence_each_other(open_again: Open) -> None:
    """A paused server comes back after its successor took over."""
    first, second = open_again(), open_again()
    assert put(first, entry(handle=A, revision=1), 0)
    there = get(second)
    assert there is not None
    assert put(second, entry(handle=B, revision=2), there.handle)
    assert not put(first, entry(handle=A, revision=3), A)
    assert get(first) == entry(handle=B, revision=2)


def test_a_closed_store_opens_again_by_itself(store: StateStore) -> None:
    put(store, entry(), 0)
    store.close()
    store.close()
    assert get(store) == entry()


def test_the_model_has_the_rule_of_the_stores(store: StateStore) -> None:
    """Every combination of what is there and what is written, in one batch each."""
    states = [None, *((handle, at) for handle in (ENDED, A, B) for at in (1, 2))]
    writes = [(f, h, r) for f in (0, A, B) for h in (ENDED, A, B) for r in (1, 2)]
    model = Model()
    there, written, formers = [], [], []
    for state in states:
        for number, (former, handle, revision) in enumerate(writes):
            name = f"{state}-{number}"
            if state is not None:
                there.append(entry(name, *state))
            written.append(entry(name, handle, revision, data="new"))
            formers.append(former)
    for store_or_model in (store, model):
        assert store_or_model.write(batch(*there, formers=[0] * len(there))) == []
    refused = store.write(batch(*written, formers=formers))
    assert refused == model.write(batch(*written, formers=formers))
    assert 0 < len(refused) < len(written)
    assert store.read([one.session_id for one in written]) == model.entries


def test_open_store_takes_a_url_of_valkey_or_a_path(tmp_path: Path) -> None:
    assert open_store("valkey://localhost:6379/0").kind == "valkey"
    assert open_store("valkeys://me:word@localhost/3").kind == "valkey"
    assert open_store(str(tmp_path / "x.sqlite")).kind == "sqlite"
    assert not list(tmp_path.iterdir())  # opened at first use
    for wrong in ["redis://localhost", "postgresql://me:s3cret@host/x", ""]:
        with pytest.raises(ValueError, match=r"must be valkey://.*or the path of a file") as error:
            open_store(wrong)
        assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["valkey://", "valkey://h:port", "valkey://h/db", "valkey://h/-1", "valkey://h/0?x=1"]
)
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be valkey://\[user:password@\]host:port/database"):
        open_store(url)
