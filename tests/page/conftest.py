"""A server with its page, and one browser for all tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from carousel.client import Client
from carousel.model import Characters, ModelConfig, Network, Softmax, Tokens, save
from tests.conftest import RunningServer, running, tiny_models
from tests.page.browser import Browser, missing

EVIL = '<img src=x onerror="document.title=1">'
LONG = "a-name-as-long-as-names-may-be-which-is-sixty-three-characters1"


def speaker(folder: Path, symbols: str) -> None:
    """A small random model that reads text."""
    torch.manual_seed(3)
    size = len(symbols)
    save(
        folder,
        Network(
            ModelConfig(
                cell="lstm",
                layers=2,
                hidden_size=16,
                input=Tokens(size, 4),
                head=Softmax(size),
                tokenizer=Characters(symbols),
            )
        ),
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Among its models are one that reads tags, one with a long name, and one that is broken."""
    store = tmp_path_factory.mktemp("page") / "models"
    tiny_models(store)
    speaker(store / "speaker" / "1", "".join(sorted(set(EVIL))) + "\n")
    speaker(store / LONG / "1", "ab")
    speaker(store / "broken" / "1", "ab")
    file = store / "broken" / "1" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"cell": EVIL}))
    with running(store=store, shipped=False, default_durability="memory") as server:
        yield server


@pytest.fixture
def url(site: RunningServer) -> str:
    return f"http://localhost:{site.server.http_port}/"


@pytest.fixture
def client(site: RunningServer) -> Iterator[Client]:
    with Client(site.target) as client:
        yield client


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if why := missing():
        pytest.skip(why)
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """After each test nothing may have gone wrong in the page."""
    yield chromium
    assert chromium.troubles() == []
