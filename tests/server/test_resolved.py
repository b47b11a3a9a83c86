"""What names stand for is kept while the folders stay as they are, and not a moment longer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from carousel.errors import ModelNotFound, VersionNotFound
from carousel.model import Features, Linear, ModelConfig, Network, save
from carousel.server.names import ModelRef
from carousel.server.resolved import KEPT_NS, Resolved
from carousel.server.store import ModelStore

HOUR = 3_600_000_000_000


class Names:
    """Names over a store, an hour after its folders changed; time stands still."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self.looks = 0
        self.now = time.time_ns() + HOUR
        self._resolved: Resolved[int] = Resolved(store, clock=lambda: self.now)

    def number(self, name: str, tenant: str = "") -> int:
        ref = ModelRef.parse(name)

        def find() -> int:
            self.looks += 1
            return self.store.resolve(self.store.seen(ref, tenant)).number

        return self._resolved.version(ref, tenant, find)

    def known_for_long(self, name: str, tenant: str = "") -> int:
        """The same, once its folder has not changed for years."""
        for path in (self.store.root / "m" / "aliases.json", self.store.root / "m"):
            if path.exists():
                os.utime(path, (1e9, 1e9))
        return self.number(name, tenant)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    config = ModelConfig(cell="gru", layers=1, hidden_size=4, input=Features(2), head=Linear(1))
    save(tmp_path / "made", Network(config))
    return tmp_path / "made"


@pytest.fixture
def names(tmp_path: Path, made: Path) -> Names:
    store = ModelStore(tmp_path / "store")
    store.add("m", made)
    names = Names(store)
    assert names.number("models/m") == 1
    return names


def test_folders_that_stay_as_they_are_are_not_read_again(names: Names) -> None:
    assert [names.number("models/m") for _ in range(3)] == [1, 1, 1]
    assert names.looks == 1


def test_what_changes_in_the_store_shows_at_once(names: Names, made: Path) -> None:
    store = names.store
    changes: list[tuple[Callable[[], object], int]] = [
        (lambda: store.add("m", made), 2),
        (lambda: store.set_alias("m", "stable", 1), 1),
        (lambda: store.set_alias("m", "stable", 2), 2),
        (lambda: store.set_alias("m", "stable", 1), 1),
        (lambda: store.delete_alias("m", "stable"), 2),
        (lambda: store.delete("m", 2), 1),
    ]
    for change, number in changes:
        before = names.known_for_long("models/m")
        change()
        assert names.number("models/m") == number != before


def test_a_deleted_version_is_gone_at_once(names: Names, made: Path) -> None:
    names.store.add("m", made)
    assert names.known_for_long("models/m/versions/2") == 2
    names.store.delete("m", 2)
    with pytest.raises(VersionNotFound):
        names.number("models/m/versions/2")


def test_a_model_of_a_tenants_own_shows_at_once(names: Names, made: Path) -> None:
    assert names.number("models/m", "acme") == 1
    names.store.add("acme/m", made, version=7)
    assert names.number("models/m", "acme") == 7
    assert names.number("models/m", "other") == names.number("models/m") == 1


def test_what_has_just_changed_is_looked_at_each_time(names: Names, made: Path) -> None:
    names.store.add("m", made)
    moment = names.now - 1_000_000_000
    os.utime(names.store.root / "m", ns=(moment, moment))
    assert [names.number("models/m") for _ in range(3)] == [2, 2, 2]
    assert names.looks == 4


def test_what_the_stamps_do_not_show_is_seen_after_a_second(names: Names) -> None:
    for file in (names.store.root / "m" / "1").iterdir():
        file.unlink()
    assert names.number("models/m") == 1
    names.now += KEPT_NS
    with pytest.raises(ModelNotFound):
        names.number("models/m")
