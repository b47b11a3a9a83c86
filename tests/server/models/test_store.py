"""The model store: versions that never change, aliases, and what nobody gets at."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from carousel.errors import (
    AliasNotFound,
    ModelInUse,
    ModelNotFound,
    StoreUnwritable,
    VersionExists,
    VersionNotFound,
    WeightsInvalid,
)
from carousel.model import Network
from carousel.server.names import ModelRef
from carousel.server.store import ModelStore
from tests.server.models.conftest import CONFIG, everything


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_begins_at_the_first_write(store: ModelStore, made: Path) -> None:
    assert store.models() == []
    with pytest.raises(ModelNotFound):
        store.resolve(ModelRef("x"))
    assert not store.root.exists()
    store.add("x", made)
    assert everything(store.root) == [
        "x",
        "x/1",
        "x/1/README.md",
        "x/1/config.json",
        "x/1/weights.safetensors",
    ]


def test_what_comes_in_is_what_was_given(store: ModelStore, made: Path) -> None:
    version = store.add("x", made)
    assert version == store.version("x", 1)
    assert contents(version.folder) == contents(made)
    assert version.card() == "# A card\n"
    assert version.config() == CONFIG
    assert version.parameters() == sum(p.numel() for p in Network(CONFIG).parameters())


def test_versions_count_up_and_never_change(store: ModelStore, made: Path) -> None:
    assert [store.add("x", made).number for _ in range(3)] == [1, 2, 3]
    assert store.add("x", made, version=7).number == 7
    assert store.add("x", made).number == 8
    assert store.get("x").versions == (1, 2, 3, 7, 8)
    before = contents(store.version("x", 2).folder)
    with pytest.raises(VersionExists, match="versions/2 exists"):
        store.add("x", made, version=2)
    assert contents(store.version("x", 2).folder) == before


def test_versions_that_come_at_once_get_different_numbers(
    store: ModelStore, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def slow(source: Path, target: Path) -> None:
        os.sched_yield()  # let another thread in between the choice of a number and its use
        real(source, target)

    monkeypatch.setattr(os, "rename", slow)
    with ThreadPoolExecutor(8) as threads:
        numbers = [
            f.result().number for f in [threads.submit(store.add, "x", made) for _ in range(32)]
        ]
    assert sorted(numbers) == list(range(1, 33))


def test_there_is_no_number_above_the_highest(store: ModelStore, made: Path) -> None:
    store.add("x", made, version=2**32 - 1)
    with pytest.raises(VersionExists, match="4294967295, the highest"):
        store.add("x", made)
    assert store.add("x", made, version=5).number == 5


def test_a_deleted_number_is_never_given_again(store: ModelStore, made: Path) -> None:
    store.add("x", made)
    store.add("x", made)
    store.delete("x", 2)
    assert store.get("x").versions == (1,)
    with pytest.raises(VersionNotFound, match="the newest are 1"):
        store.version("x", 2)
    with pytest.raises(VersionExists):
        store.add("x", made, version=2)
    assert store.add("x", made).number == 3
    with pytest.raises(VersionNotFound):
        store.delete("x", 2)


def test_a_bare_model_is_its_stable_alias_or_else_its_newest(store: ModelStore, made: Path) -> None:
    for _ in range(3):
        store.add("x", made)
    assert store.resolve(ModelRef("x")).number == 3
    store.set_alias("x", "stable", 2)
    store.set_alias("x", "next", 3)
    assert store.resolve(ModelRef("x")).number == 2
    assert store.resolve(ModelRef("x", alias="next")).number == 3
    assert store.resolve(ModelRef("x", version=1)).number == 1
    assert store.delete_alias("x", "stable").aliases == {"next": 3}
    assert store.resolve(ModelRef("x")).number == 3
    with pytest.raises(AliasNotFound):
        store.resolve(ModelRef("x", alias="stable"))
    with pytest.raises(AliasNotFound):
        store.delete_alias("x", "stable")


def test_an_alias_needs_its_version_and_keeps_it(store: ModelStore, made: Path) -> None:
    store.add("x", made)
    with pytest.raises(VersionNotFound):
        store.set_alias("x", "stable", 2)
    with pytest.raises(ModelNotFound):
        store.set_alias("y", "stable", 1)
    store.set_alias("x", "stable", 1)
    with pytest.raises(ModelInUse, match="stable"):
        store.delete("x", 1)
    store.delete_alias("x", "stable")
    store.delete("x", 1)
    assert store.models() == []


def test_damaged_aliases_are_told_and_never_ignored(store: ModelStore, made: Path) -> None:
    store.add("x", made)
    (store.root / "x" / "aliases.json").write_text('{"stable": ')
    with pytest.raises(WeightsInvalid, match=r"aliases.json of models/x is damaged"):
        store.resolve(ModelRef("x"))
    assert store.resolve(ModelRef("x", version=1)).number == 1


def test_a_store_that_can_not_be_written_still_serves(
    tmp_path: Path, made: Path, shipped: dict[str, Path]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        store = ModelStore(root, shipped=shipped)
        assert store.models() == ["x"]
        assert store.resolve(ModelRef("x")).folder == shipped["x"] / "1"
        for write in (
            partial(store.add, "y", made),
            partial(store.set_alias, "x", "stable", 1),
            partial(store.delete, "x", 1),
        ):
            with pytest.raises(StoreUnwritable):
                write()


def test_shipped_models_lie_over_the_store(
    store: ModelStore, made: Path, shipped: dict[str, Path]
) -> None:
    store = ModelStore(store.root, shipped=shipped)
    assert store.resolve(ModelRef("x")).folder == shipped["x"] / "1"
    with pytest.raises(VersionExists):
        store.add("x", made, version=1)
    assert store.add("x", made).number == 2
    store.set_alias("x", "stable", 1)
    assert store.resolve(ModelRef("x")).folder == shipped["x"] / "1"
    assert store.get("x").versions == (1, 2)
    store.delete_alias("x", "stable")
    with pytest.raises(StoreUnwritable, match="came with Carousel"):
        store.delete("x", 1)
    assert (shipped["x"] / "1").exists()


def test_what_the_store_had_is_not_hidden_by_what_is_shipped(
    store: ModelStore, made: Path, shipped: dict[str, Path]
) -> None:
    own = store.add("x", made)
    store = ModelStore(store.root, shipped=shipped)
    assert store.version("x", 1) == own
    store.delete("x", 1)
    with pytest.raises(ModelNotFound):  # never another model under the name of a deleted one
        store.version("x", 1)


def test_links_in_the_store_lead_nowhere(store: ModelStore, made: Path) -> None:
    store.add("x", made)
    root = store.root
    (root / "linked").symlink_to(root / "x")
    (root / "x" / "2").symlink_to(made)
    for number, name in ((3, "config.json"), (4, "weights.safetensors")):
        shutil.copytree(made, root / "x" / str(number))
        (root / "x" / str(number) / name).unlink()
        (root / "x" / str(number) / name).symlink_to(made / name)
    assert store.models() == ["x"]
    assert store.get("x").versions == (1,)
    assert store.check_free("x", 0) == 5
    with pytest.raises(ModelNotFound):
        store.version("linked", 1)
    for number in (2, 3, 4):
        with pytest.raises(VersionNotFound):
            store.version("x", number)
    with pytest.raises(StoreUnwritable, match="symbolic link"):
        store.add("linked", made)
    assert sorted(os.listdir(root / "x")) == ["1", "2", "3", "4"]


def test_what_is_no_version_is_not_shown(store: ModelStore, made: Path) -> None:
    store.add("x", made)
    for name in ("01", "0", "two", "99999999999", "٣"):
        shutil.copytree(made, store.root / "x" / name)
    shutil.copytree(made, store.root / "UPPER" / "1")
    (store.root / "x" / "5").mkdir()
    (store.root / "notes.txt").write_text("mine")
    assert store.models() == ["x"]
    assert store.get("x").versions == (1,)


def test_aliases_are_plain_json(store: ModelStore, made: Path) -> None:
    store.add("x", made)
    store.set_alias("x", "stable", 1)
    assert json.loads((store.root / "x" / "aliases.json").read_text()) == {"stable": 1}
