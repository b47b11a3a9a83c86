"""The real server, in a thread of its own, on free ports; and small models made on the spot."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
import torch

from carousel.model import (
    Features,
    Linear,
    ModelConfig,
    Network,
    Softmax,
    Tokens,
    save,
)
from carousel.server import Server, Settings
from tests.papers import Papers
from tests.processes import PATIENCE

T = TypeVar("T")

# Files that take longest begin first, so that no core is left with one at the end.
LONG = (
    "page/test_page.py",
    "deploy/test_watched.py",
    "server/training/test_runs.py",
    "client/test_survival.py",
    "cli/test_demo.py",
    "cli/test_training.py",
    "server/training/test_postgres.py",
    "server/frontends/test_processes.py",
    "cli/test_bench.py",
    "test_readme.py",
    "cli/test_top.py",
    "server/training/test_takeover.py",
    "server/training/test_datasets.py",
    "model/data/test_memory.py",
    "model/training/test_faults.py",
    "server/training/test_checks.py",
    "cli/test_serve.py",
    "client/test_jobs.py",
    "server/test_secrets.py",
    "histories/test_histories.py",
)

# Whoever runs the tests in the background of a script has Ctrl-C ignored, in what they start too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Threads that spin for each other on a core that others use too cost many times what they bring.
torch.set_num_threads(1)

# What others bring into a store is looked for only where a test is about that: what a test has
# just brought in is not loaded behind its back.
DEFAULTS = {
    "port": 0,
    "http_port": 0,
    "log_level": "error",
    "store_refresh": "off",
    "max_resets": "off",  # tests cancel as they like, and all have one address
    "training_niceness": 0,  # what is trained does not wait for others on the machine
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a third of the time tests wait for something."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


class RunningServer:
    """A server that listens on `target`; `run` awaits something in its event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        made: Callable[..., Server] = Server,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._made = made
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        try:
            self.server = self._made(self.settings, clock=self._clock)
            await self.server.start()
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._started.set()
        await self.server.wait()

    @property
    def target(self) -> str:
        return f"localhost:{self.server.port}"

    def run(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(PATIENCE)

    def stop(self) -> None:
        if self._thread.is_alive():
            self.run(self.server.stop())
            self._thread.join(PATIENCE)

    def join(self) -> None:
        """Wait until the server has stopped by itself."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def tiny_models(store: Path) -> None:
    """Small random models: `tiny` takes 3 features, `letters` 11 tokens, and so on."""
    torch.manual_seed(1)
    models = {
        "tiny": ModelConfig(
            cell="lstm", layers=2, hidden_size=8, input=Features(3), head=Linear(2)
        ),
        "letters": ModelConfig(
            cell="gru", layers=1, hidden_size=16, input=Tokens(11, 4), head=Softmax(11)
        ),
        "both-ways": ModelConfig(
            cell="lstm",
            layers=1,
            hidden_size=8,
            input=Features(3),
            head=Linear(2),
            bidirectional=True,
        ),
        # Doubles its input at every step, so that large inputs soon overflow.
        "explosive": ModelConfig(
            cell="rnn_relu", layers=1, hidden_size=1, input=Features(1), head=Linear(1)
        ),
    }
    for name, config in models.items():
        network = Network(config)
        if name == "explosive":
            with torch.no_grad():
                for parameter_name, parameter in network.named_parameters():
                    parameter.fill_(0.0 if "bias" in parameter_name else 2.0)
        save(store / name / "1", network)


@contextmanager
def running(**changes: Any) -> Iterator[RunningServer]:
    """A server with these settings."""
    with tempfile.TemporaryDirectory() as data:
        server = RunningServer(settings_of(Path(data), **changes))
        try:
            yield server
        finally:
            server.stop()


def settings_of(data: Path, /, **changes: Any) -> Settings:
    """Settings for a server on free ports, with a folder of data of its own."""
    return Settings.read(None, **{**DEFAULTS, "data": data, **changes})


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """Certificates."""
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the tiny models."""
    store = tmp_path_factory.mktemp("models")
    tiny_models(store)
    return store


@pytest.fixture(scope="session")
def server(model_store: Path) -> Iterator[RunningServer]:
    """One server for many tests, with the tiny and the shipped models."""
    with running(store=model_store) as server:
        yield server


@pytest.fixture
def serve(model_store: Path, tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Make servers with settings of one's own; they are stopped after the test.

    They share a folder of data, one after the other or at once.
    """
    running_now: list[RunningServer] = []

    def start(*, clock: Callable[[], float] = time.time, **changes: Any) -> RunningServer:
        data = changes.pop("data", tmp_path / "data")
        settings = settings_of(data, **{"store": model_store, **changes})
        running_now.append(RunningServer(settings, clock=clock))
        return running_now[-1]

    yield start
    for one in running_now:
        one.stop()


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    """A plain channel to the shared server, for tests that speak the contract itself."""
    with grpc.insecure_channel(server.target) as channel:
        yield channel
