"""Random histories of a store, against a dict: every answer is what the dict would say."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from carousel.server.stores import ENDED, Entry, StateStore
from tests.server.stores.conftest import Open
from tests.server.stores.model import Model, batch

IDS = [f"s{number}" for number in range(5)]
HANDLES = st.sampled_from([ENDED, 1, 2**63, 2**64 - 1])
TIMES = st.sampled_from([1.0, 2.0, 3.0])
ENTRIES = st.builds(
    Entry, st.sampled_from(IDS), HANDLES, st.integers(0, 3), TIMES, st.binary(max_size=9)
)
WRITES = st.lists(
    st.tuples(ENTRIES, HANDLES), unique_by=lambda write: write[0].session_id, min_size=1
)


class Histories(RuleBasedStateMachine):
    """Two openers write, read, look and forget in any order."""

    open_again: Open

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.stores: list[StateStore] = [self.open_again() for _ in range(2)]

    @rule(by=st.booleans(), writes=WRITES, rightful=st.booleans())
    def write(self, by: bool, writes: list[tuple[Entry, int]], rightful: bool) -> None:
        """`rightful`: the writer knows the handle that is there."""
        there = self.model.entries
        formers = [
            there[entry.session_id].handle if rightful and entry.session_id in there else former
            for entry, former in writes
        ]
        written = batch(*(entry for entry, _ in writes), formers=formers)
        assert self.stores[by].write(written) == self.model.write(written)

    @rule(by=st.booleans(), ids=st.lists(st.sampled_from([*IDS, "never"]), unique=True))
    def read(self, by: bool, ids: list[str]) -> None:
        assert self.stores[by].read(ids) == self.model.read(ids)

    @rule(by=st.booleans(), after=st.sampled_from(["", *IDS]), limit=st.integers(1, 6))
    def page(self, by: bool, after: str, limit: int) -> None:
        behind = [entry for entry in self.model.live() if entry.session_id > after]
        assert self.stores[by].page(after, limit) == behind[:limit]

    @rule(by=st.booleans(), now=st.sampled_from([0.5, 1.0, 2.5, 3.0]), limit=st.integers(1, 6))
    def expired(self, by: bool, now: float, limit: int) -> None:
        found = self.stores[by].expired(now, limit)
        all_of_them = self.model.expired(now)
        assert len(found) == min(limit, len(all_of_them))
        assert {entry.session_id: entry for entry in found}.items() <= {
            entry.session_id: entry for entry in all_of_them
        }.items()

    @rule(by=st.booleans(), now=TIMES)
    def forget(self, by: bool, now: float) -> None:
        self.stores[by].forget(now)
        self.model.forget(now)

    @rule(by=st.booleans())
    def reopen(self, by: bool) -> None:
        self.stores[by].close()

    def teardown(self) -> None:
        assert self.stores[0].read(IDS) == self.model.entries
        # Leave nothing to the next history: end all, forget all.
        live = [
            Entry(entry.session_id, ENDED, entry.revision + 1, 0.0, b"")
            for entry in self.model.live()
        ]
        formers = [entry.handle for entry in self.model.live()]
        assert self.stores[0].write(batch(*live, formers=formers)) == []
        self.stores[0].forget(1e9)
        assert self.stores[0].read(IDS) == {}
        for store in self.stores:
            store.close()


def test_every_history_is_that_of_a_dict(open_again: Open) -> None:
    machine = type("Histories", (Histories,), {"open_again": staticmethod(open_again)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
