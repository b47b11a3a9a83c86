"""A store, a model's folder that may come into it, and models that lie over it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from carousel.model import Features, ModelConfig, Network, save
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


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))
