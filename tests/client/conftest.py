"""What the tests of the client share: a client, a relay, and the truth to compare with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest

from carousel.client import Client
from tests.client.relay import Relay
from tests.conftest import RunningServer

Floats = npt.NDArray[np.float32]


def assert_close(actual: npt.ArrayLike, expected: npt.ArrayLike) -> None:
    """Equal in float32, whatever else was in the batches."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=1e-5, atol=1e-6)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop go on until something has happened in it."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the client tells nobody
            await asyncio.sleep(0)


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target, timeout=10) as client:
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
