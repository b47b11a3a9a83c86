"""Waiting: what the coalescer holds back, for how long, and what of it can still be taken back."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from carousel.client import AsyncClient
from carousel.errors import DeadlineExceeded
from tests.client.conftest import Floats, assert_close, until
from tests.client.relay import Relay
from tests.processes import PATIENCE


def test_what_waits_behind_a_silent_server_feeds_nothing(
    relay: Relay, inputs: Floats, truth: Floats
) -> None:
    async def main() -> None:
        async with AsyncClient(relay.target, timeout=PATIENCE) as shaky:
            sessions = [await shaky.session("tiny") for _ in range(5)]
            await asyncio.gather(*(session.step(inputs[0]) for session in sessions))
            relay.stall()
            first = [asyncio.create_task(one.step(inputs[1])) for one in sessions[:3]]
            await until(lambda: all(one.unsettled for one in sessions[:3]))
            # Fewer than are on their way: these wait.
            late = asyncio.create_task(sessions[3].step(inputs[7], timeout=0.05))
            taken_back = asyncio.create_task(sessions[4].step(inputs[8]))
            await until(lambda: sessions[4].unsettled)
            taken_back.cancel()
            with pytest.raises(DeadlineExceeded):
                await late
            await asyncio.wait([taken_back])
            assert [one.unsettled for one in sessions] == [True] * 3 + [False] * 2
            second = [asyncio.create_task(one.step(inputs[1])) for one in sessions[3:]]
            relay.resume()
            outputs = await asyncio.gather(*first, *second)
            assert_close(outputs, np.tile(truth[1], (5, 1)))

    asyncio.run(main())


def test_steps_do_not_wait_for_chunks(relay: Relay, inputs: Floats, truth: Floats) -> None:
    async def main() -> None:
        async with AsyncClient(relay.target, timeout=PATIENCE) as shaky:
            sessions = [await shaky.session("tiny") for _ in range(9)]
            chunks = [asyncio.create_task(one.chunk(inputs)) for one in sessions[:8]]
            await until(lambda: all(one.unsettled for one in sessions[:8]))
            step = await sessions[8].step(inputs[0])
            assert_close(step, truth[0])
            for outputs in await asyncio.gather(*chunks):
                assert_close(outputs, truth)
            assert all(one.step_index == len(inputs) for one in sessions[:8])

    asyncio.run(main())


def test_a_session_may_be_reset_while_its_step_is_on_its_way(
    relay: Relay, inputs: Floats, truth: Floats
) -> None:
    async def main() -> None:
        async with (
            AsyncClient(relay.target, timeout=PATIENCE) as shaky,
            shaky.session("tiny") as session,
        ):
            await session.step(inputs[0])
            relay.stall()
            task = asyncio.create_task(session.step(inputs[1]))
            await until(lambda: session.unsettled)
            task.cancel()
            await asyncio.wait([task])
            relay.resume()
            await session.reset()
            assert not session.unsettled
            assert await session.settle() is None
            outputs = [await session.step(x) for x in inputs[:3]]
            assert_close(outputs, truth[:3])

    asyncio.run(main())


def test_an_answer_that_comes_in_the_tick_of_the_cancel_is_kept(
    relay: Relay, inputs: Floats, truth: Floats
) -> None:
    async def main() -> None:
        async with (
            AsyncClient(relay.target, timeout=PATIENCE) as client,
            client.session("tiny") as session,
        ):
            for x, y in zip(inputs[:10], truth, strict=False):
                index = session.step_index
                task = asyncio.create_task(session.step(x))
                await until(lambda index=index: session.step_index > index)  # type: ignore[misc]
                task.cancel()
                await asyncio.wait([task])
                lost = await session.settle() if task.cancelled() else task.result()
                assert lost is not None
                assert_close(lost, y)

    asyncio.run(main())
