"""The model store: what comes in whole or not at all, and what nobody gets at."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

from carousel.errors import (
    AliasNotFound,
    ImportRefused,
    ModelInUse,
    ModelNotFound,
    StoreUnwritable,
    VersionExists,
    VersionNotFound,
    WeightsInvalid,
)
from carousel.model import Features, ModelConfig, Network, save
from carousel.server.names import ModelRef
from carousel.server.store import ModelStore

CONFIG = ModelConfig(cell="gru", layers=1, hidden_size=4, input=Features(2))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A model's folder, outside of any store."""
    torch.manual_seed(1)
    folder = tmp_path / "made"
    save(folder, Network(CONFIG))
    (folder / "README.md").write_text("# A card\n")
    return folder


@pytest.fixture
def shipped(made: Path) -> dict[str, Path]:
    """One model, `x`, with one version, as it comes with Carousel."""
    folder = made.parent / "shipped"
    shutil.copytree(made, folder / "1")
    return {"x": folder}


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


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


def test_aliases_that_two_servers_set_at_once_are_all_there(store: ModelStore, made: Path) -> None:
    store.add("x", made)
    servers = [store, ModelStore(store.root)]
    names = [f"alias-{number}" for number in range(40)]

    def set_alias(number: int) -> None:
        servers[number % 2].set_alias("x", names[number], 1)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(set_alias, range(len(names))))
    assert sorted(store.aliases("x")) == sorted(names)


def test_one_promotes_at_a_time_of_all_servers_and_of_those_that_are_killed(
    store: ModelStore,
) -> None:
    other = ModelStore(store.root)
    turn = store.try_turn()
    assert turn is not None
    assert other.try_turn() is None
    os.close(turn)  # as the end of a process does
    turn = other.try_turn()
    assert turn is not None
    os.close(turn)


def test_damaged_aliases_are_told_and_never_ignored(store: ModelStore, made: Path) -> None:
    store.add("x", made)
    (store.root / "x" / "aliases.json").write_text('{"stable": ')
    with pytest.raises(WeightsInvalid, match=r"aliases.json of models/x is damaged"):
        store.resolve(ModelRef("x"))
    assert store.resolve(ModelRef("x", version=1)).number == 1


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "pickle", "other shapes"])
def test_weights_that_do_not_load_do_not_come_in(
    store: ModelStore, made: Path, damage: str
) -> None:
    weights = made / "weights.safetensors"
    match damage:
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-4])
        case "foreign":
            weights.write_bytes(b"<html>not found</html>")
        case "empty":
            weights.write_bytes(b"")
        case "pickle":
            torch.save(Network(CONFIG).state_dict(), weights)
        case _:
            other = ModelConfig(cell="gru", layers=1, hidden_size=5, input=Features(2))
            save(made.parent / "other", Network(other))
            shutil.copy(made.parent / "other" / "weights.safetensors", weights)
    with pytest.raises(WeightsInvalid) as refused:
        store.add("x", made)
    assert str(store.root) not in refused.value.message
    assert everything(store.root) == []


@pytest.mark.parametrize(
    "text",
    ["", "[]", "nul", '{"cell": "lstm"}', '{"cell": "qlstm"}', "[" * 100_000, '"\\ud800"'],
)
def test_a_config_that_is_none_does_not_come_in(store: ModelStore, made: Path, text: str) -> None:
    (made / "config.json").write_text(text)
    with pytest.raises(WeightsInvalid):
        store.add("x", made)
    assert everything(store.root) == []


def test_a_config_too_large_does_not_come_in(store: ModelStore, made: Path) -> None:
    with (made / "config.json").open("a") as file:
        file.write(" " * 2 * 1024**2)
    with pytest.raises(WeightsInvalid, match="at most"):
        store.add("x", made)
    assert everything(store.root) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from carousel.server import store
def die(*_):
    print(os.listdir(sys.argv[1]), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
store.os.rename = die
store.ModelStore(Path(sys.argv[1])).add("x", Path(sys.argv[2]))
"""


def test_a_kill_in_the_middle_leaves_nothing(tmp_path: Path, made: Path) -> None:
    root = tmp_path / "store"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), str(made)], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert ".staging-" in killed.stdout
    assert [path.name for path in root.iterdir() if not path.name.startswith(".")] in ([], ["x"])
    store = ModelStore(root)  # sweeps when it starts
    assert store.models() == []
    assert list(root.glob(".staging-*")) == []
    assert store.add("x", made).number == 1


def test_a_starting_server_leaves_the_staging_of_another_alone(
    store: ModelStore, made: Path
) -> None:
    with store.stage() as coming:
        coming.write_text("{}")
        ModelStore(store.root)
        assert (coming.folder / "config.json").exists()
    assert not coming.folder.exists()


def test_a_failed_rename_leaves_nothing(
    store: ModelStore, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(StoreUnwritable, match="No space left"):
            store.add("x", made)
    assert store.models() == []
    assert list(store.root.glob(".staging-*")) == []


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


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../made",
        "good/..",
        "good/../../made",
        "/",
        "good/",
        "//good",
        "a\0b",
        "none",
    ],
)
def test_an_import_never_leaves_its_root(store: ModelStore, made: Path, path: str) -> None:
    root = made.parent / "imports"
    shutil.copytree(made, root / "good")
    store.stage_import(root, "good").discard()
    for asked in (path, f"{root}/good"):
        with pytest.raises(ImportRefused, match="path must") as refused:
            store.stage_import(root, asked)
        assert refused.value.field == "path"


def test_an_import_follows_no_link_and_opens_no_device(store: ModelStore, made: Path) -> None:
    root = made.parent / "imports"
    root.mkdir()
    (root / "folder").symlink_to(made)
    (root / "way").mkdir()
    (root / "way" / "in").symlink_to(made.parent)
    for name in ("linked", "pipe", "device"):
        shutil.copytree(made, root / name)
        (root / name / "weights.safetensors").unlink()
    (root / "linked" / "weights.safetensors").symlink_to(made / "weights.safetensors")
    os.mkfifo(root / "pipe" / "weights.safetensors")
    (root / "device" / "weights.safetensors").mkdir()
    for path in ("folder", "way/in/made", "linked", "pipe", "device"):
        with pytest.raises(ImportRefused):
            store.stage_import(root, path)
    assert everything(store.root) == []


def test_without_an_import_root_nothing_is_imported(store: ModelStore) -> None:
    with pytest.raises(ImportRefused, match="importing is off"):
        store.stage_import(None, "good")


def test_a_staging_folder_can_be_discarded_twice(store: ModelStore) -> None:
    coming = store.stage()
    coming.discard()
    coming.discard()
    assert list(store.root.iterdir()) == []


def test_nothing_is_reported_before_it_is_on_the_disk(
    store: ModelStore, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    store.add("x", made)
    assert {"config.json", "weights.safetensors", "README.md", "x", "store"} <= set(synced)


def test_aliases_are_plain_json(store: ModelStore, made: Path) -> None:
    store.add("x", made)
    store.set_alias("x", "stable", 1)
    assert json.loads((store.root / "x" / "aliases.json").read_text()) == {"stable": 1}
