"""A server with two front ends, and channels of which it is known who serves them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.conftest import RunningServer, running
from tests.server.frontends.doors import Doors


@pytest.fixture(scope="session")
def server(model_store: Path) -> Iterator[RunningServer]:
    """In place of the server of one process, also for the tests that are used again here."""
    with running(store=model_store, frontends=2) as server:
        yield server


@pytest.fixture
def doors(server: RunningServer) -> Iterator[Doors]:
    with Doors(server) as doors:
        yield doors


@pytest.fixture
def channels(doors: Doors) -> list[grpc.Channel]:
    """One to each front end."""
    return [doors.to(pid) for pid in doors.pids]
