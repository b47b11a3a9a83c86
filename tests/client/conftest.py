"""What the tests of the client share: a client, a relay, and the truth to compare with."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest

from carousel.client import Client, Dataset
from tests.client.relay import Relay
from tests.conftest import RunningServer, running
from tests.processes import PATIENCE

Floats = npt.NDArray[np.float32]


def assert_close(actual: npt.ArrayLike, expected: npt.ArrayLike) -> None:
    """Equal in float32, whatever else was in the batches."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=1e-5, atol=1e-6)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop go on until something has happened in it."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the client tells nobody
            await asyncio.sleep(0)


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def relay(server: RunningServer) -> Iterator[Relay]:
    relay = Relay(server.target)
    yield relay
    relay.close()


@pytest.fixture
def inputs() -> Floats:
    """A sequence of 40 steps for the model `tiny`: [40, 3]."""
    return np.random.default_rng(7).standard_normal((40, 3)).astype(np.float32)


@pytest.fixture
def truth(client: Client, inputs: Floats) -> Floats:
    """What `tiny` answers to `inputs`: [40, 2]."""
    return client.predict("tiny", [inputs])[0]


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that trains one job at a time, in folders of its own."""
    folder = tmp_path_factory.mktemp("trainer")
    with running(store=folder / "models", shipped=False) as server:
        yield server


@pytest.fixture
def teacher(trainer: RunningServer) -> Iterator[Client]:
    """A client of the server that trains."""
    with Client(trainer.target, timeout=PATIENCE) as client:
        yield client


READINGS = "hour,load,note\n" + "".join(
    f"{hour},{math.sin(hour / 4) + hour % 3 / 10:.3f},{'ab'[hour % 2]}\n" for hour in range(400)
)


@pytest.fixture(scope="session")
def readings(trainer: RunningServer) -> Dataset:
    """A table of 400 hours: `load` goes up and down, `note` is text."""
    with Client(trainer.target, timeout=PATIENCE) as client:
        return client.datasets.upload(READINGS.encode(), id="readings", format="csv")
