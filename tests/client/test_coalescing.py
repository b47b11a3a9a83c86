"""Coalescing: steps awaited in one tick travel as one message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from carousel.client import AsyncClient, Durability
from carousel.client._coalescer import CROWD
from tests.client.conftest import Floats, assert_close
from tests.conftest import RunningServer


async def messages(client: AsyncClient) -> float:
    """Messages that came up streams of steps so far."""
    statistics = await client.statistics()
    return statistics.value("grpc_server_msg_received_total", grpc_method="StreamSteps")


def test_concurrent_steps_travel_as_one_message(
    server: RunningServer, inputs: Floats, truth: Floats
) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client:
            sessions = [await client.session("tiny") for _ in range(64)]
            before = await messages(client)
            for x, y in zip(inputs[:3], truth, strict=False):
                outputs = await asyncio.gather(*(session.step(x) for session in sessions))
                assert_close(outputs, np.tile(y, (64, 1)))
            assert await messages(client) - before == 3

    asyncio.run(main())


def test_a_crowd_travels_in_halves(server: RunningServer, inputs: Floats, truth: Floats) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client:
            sessions = await (await client.session("tiny")).fork(CROWD)
            for size, parts in ((CROWD - 1, 1), (CROWD, 2)):
                some, before = sessions[:size], await messages(client)
                fed = int(size == CROWD)  # steps that all of these but the last have taken
                outputs = await asyncio.gather(*(session.step(inputs[fed]) for session in some))
                assert_close(outputs[: CROWD - 1], np.tile(truth[fed], (CROWD - 1, 1)))
                assert await messages(client) - before == parts

    asyncio.run(main())


def test_sessions_of_two_models_travel_apart(server: RunningServer, inputs: Floats) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client:
            tiny = [await client.session("tiny") for _ in range(8)]
            letters = [await client.session("letters") for _ in range(8)]
            before = await messages(client)
            outputs = await asyncio.gather(
                *(session.step(inputs[0]) for session in tiny),
                *(session.step(token) for token, session in enumerate(letters)),
            )
            assert [len(y) for y in outputs] == [2] * 8 + [11] * 8
            assert await messages(client) - before == 2

    asyncio.run(main())


def test_whoever_waits_for_the_store_travels_apart(
    serve: Callable[..., RunningServer], inputs: Floats, truth: Floats
) -> None:
    server = serve()

    async def main() -> None:
        async with AsyncClient(server.target) as client:
            classes = (Durability.MEMORY, Durability.ASYNC, Durability.SYNC)
            sessions = [await client.session("tiny", durability=each) for each in classes * 2]
            before = await messages(client)
            outputs = await asyncio.gather(*(session.step(inputs[0]) for session in sessions))
            assert_close(outputs, np.tile(truth[0], (6, 1)))
            assert await messages(client) - before == 2

    asyncio.run(main())


def test_steps_and_chunks_share_a_message(
    server: RunningServer, inputs: Floats, truth: Floats
) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client:
            one, two, three = [await client.session("tiny") for _ in range(3)]
            before = await messages(client)
            step, chunk, single = await asyncio.gather(
                one.step(inputs[0]), two.chunk(inputs[:9]), three.chunk(inputs[:1])
            )
            assert_close(step, truth[0])
            assert_close(chunk, truth[:9])
            assert_close(single, truth[:1])
            assert await messages(client) - before == 1

    asyncio.run(main())
