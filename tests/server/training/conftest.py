"""A server that trains, shared; and servers of one's own on folders of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.conftest import RunningServer, running
from tests.server.training.wire import FOX, Training

Start = Callable[..., tuple[RunningServer, Training]]


@pytest.fixture(scope="package")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for many tests; two jobs at once."""
    root = tmp_path_factory.mktemp("trainer")
    with running(
        store=root / "models", shipped=False, training_jobs_at_once=2, training_grace=20
    ) as server:
        with grpc.insecure_channel(server.target) as channel:
            Training(channel).upload(FOX, name="fox.txt", id="fox")
        yield server


@pytest.fixture
def trainer_channel(trainer: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(trainer.target) as channel:
        yield channel


@pytest.fixture
def training(trainer_channel: grpc.Channel) -> Training:
    """Speaks to the shared server, which has the dataset `fox`."""
    return Training(trainer_channel)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers, by default all on one data folder; they are stopped after the test."""
    with ExitStack() as stack:

        def begin(**settings: object) -> tuple[RunningServer, Training]:
            shared = {"store": tmp_path / "models", "data": tmp_path / "data", "shipped": False}
            given = {**shared, **settings}
            server = stack.enter_context(running(**given))
            channel = stack.enter_context(grpc.insecure_channel(server.target))
            return server, Training(channel)

        yield begin
