"""What comes into the model store: whole, and loadable, or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from carousel.errors import ImportRefused, StoreUnwritable, WeightsInvalid
from carousel.model import Features, ModelConfig, Network, save
from carousel.server.store import ModelStore
from tests.server.models.conftest import CONFIG, everything


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
