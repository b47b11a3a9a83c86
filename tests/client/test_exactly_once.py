"""Exactly once: whatever happens to connections, deadlines and tasks, a step is fed one time."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest

from carousel.client import AsyncClient, AsyncSession, Client, Event
from carousel.errors import DeadlineExceeded, ServerUnreachable
from tests.client.conftest import Floats, assert_close, until
from tests.client.relay import Relay
from tests.processes import PATIENCE


def cut_at_next_answer(relay: Relay) -> None:
    """Lose the next thing the server says, and the connection."""

    def cut(total: int) -> None:
        relay.on_answer = lambda total: None
        relay.cut_here()

    relay.on_answer = cut


async def sent(session: AsyncSession) -> None:
    """Let the loop go on until the session's step has left."""
    await until(lambda: session.unsettled)
    for _ in range(20):
        await asyncio.sleep(0)


def at_least(session: AsyncSession, step_index: int) -> bool:
    return session.step_index >= step_index


def steps_taken(client: Client) -> float:
    return client.statistics().value("carousel_steps_total", model="tiny")


def test_lost_answers_are_asked_for_again(
    client: Client, relay: Relay, inputs: Floats, truth: Floats
) -> None:
    events: list[Event] = []
    before = steps_taken(client)
    outputs = []
    with (
        Client(relay.target, timeout=PATIENCE, on_event=events.append) as shaky,
        shaky.session("tiny") as session,
    ):
        for place, x in enumerate(inputs):
            if place % 8 == 4:
                cut_at_next_answer(relay)
            outputs.append(session.step(x))
    assert_close(outputs, truth)
    assert steps_taken(client) - before == len(inputs)
    assert sum(event.kind == "retry" for event in events) >= 5


def test_streams_go_on_where_they_broke(
    client: Client, relay: Relay, inputs: Floats, truth: Floats
) -> None:
    events: list[Event] = []
    before = steps_taken(client)

    async def main() -> None:
        async with AsyncClient(relay.target, timeout=PATIENCE, on_event=events.append) as shaky:
            sessions = [await shaky.session("tiny") for _ in range(32)]

            async def run(session: AsyncSession) -> list[Floats]:
                return [await session.step(x) for x in inputs]

            tasks = [asyncio.create_task(run(session)) for session in sessions]
            for goal in range(5, 40, 8):
                await until(partial(at_least, sessions[0], goal))
                cut_at_next_answer(relay)
            for outputs in await asyncio.gather(*tasks):
                assert_close(outputs, truth)

    asyncio.run(main())
    assert steps_taken(client) - before == 32 * len(inputs)
    assert any(event.kind == "retry" for event in events)


def test_chunks_and_many_survive_a_cut(relay: Relay, inputs: Floats, truth: Floats) -> None:
    with Client(relay.target, timeout=PATIENCE) as shaky:
        sessions = [shaky.session("tiny") for _ in range(3)]
        for session in sessions:
            cut_at_next_answer(relay)
            assert_close(session.chunk(inputs[:20]), truth[:20])
        cut_at_next_answer(relay)
        outputs = shaky.step_many(sessions, inputs[[20, 20, 20]])
        assert_close(outputs, truth[[20, 20, 20]])


def test_a_half_closed_connection_is_replaced(relay: Relay, inputs: Floats, truth: Floats) -> None:
    async def main() -> None:
        async with (
            AsyncClient(relay.target, timeout=PATIENCE) as shaky,
            shaky.session("tiny") as session,
        ):
            for x, y in zip(inputs[:6], truth, strict=False):
                if session.step_index % 2:
                    await asyncio.to_thread(relay.half_close)
                assert_close(await session.step(x), y)

    asyncio.run(main())


@pytest.mark.parametrize("settle", [True, False])
def test_a_cancelled_step_is_settled(
    relay: Relay, inputs: Floats, truth: Floats, settle: bool
) -> None:
    async def main() -> None:
        async with (
            AsyncClient(relay.target, timeout=PATIENCE) as shaky,
            shaky.session("tiny") as session,
        ):
            await session.step(inputs[0])
            relay.stall()
            task = asyncio.create_task(session.step(inputs[1]))
            await sent(session)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert session.unsettled
            assert session.step_index == 1
            relay.resume()
            if settle:
                lost = await session.settle()
                assert lost is not None
                assert_close(lost, truth[1])
                assert await session.settle() is None
            assert_close(await session.step(inputs[2]), truth[2])
            assert session.step_index == 3

    asyncio.run(main())


def test_an_answer_that_came_after_the_cancel_is_kept(
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
            await sent(session)
            task.cancel()
            relay.resume()
            await until(lambda: not session.unsettled)
            assert session.step_index == 2
            lost = await session.settle()
            assert lost is not None
            assert_close(lost, truth[1])

    asyncio.run(main())


def test_a_step_cancelled_before_it_was_sent_feeds_nothing(
    relay: Relay, inputs: Floats, truth: Floats
) -> None:
    async def main() -> None:
        async with (
            AsyncClient(relay.target, timeout=PATIENCE) as shaky,
            shaky.session("tiny") as session,
        ):
            first = asyncio.create_task(session.step(inputs[5]))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
            assert first.cancelled()
            assert not session.unsettled
            # One that waits for its turn feeds nothing either.
            one = asyncio.create_task(session.step(inputs[0]))
            two = asyncio.create_task(session.step(inputs[6]))
            three = asyncio.create_task(session.step(inputs[1]))
            await sent(session)
            two.cancel()
            assert_close(await one, truth[0])
            assert_close(await three, truth[1])
            assert session.step_index == 2

    asyncio.run(main())


def test_a_step_that_is_late_is_settled(relay: Relay, inputs: Floats, truth: Floats) -> None:
    async def main() -> None:
        async with (
            AsyncClient(relay.target, timeout=PATIENCE) as shaky,
            shaky.session("tiny") as session,
        ):
            await session.step(inputs[0])
            relay.stall()
            with pytest.raises(DeadlineExceeded):
                await session.step(inputs[1], timeout=0.05)
            with pytest.raises(DeadlineExceeded):
                await session.settle(timeout=0.05)
            assert session.unsettled
            relay.resume()
            assert_close(await session.step(inputs[2]), truth[2])

    asyncio.run(main())


def test_a_late_call_is_settled(relay: Relay, inputs: Floats, truth: Floats) -> None:
    with Client(relay.target, timeout=PATIENCE) as shaky, shaky.session("tiny") as session:
        session.step(inputs[0])
        relay.stall()
        with pytest.raises(DeadlineExceeded):
            session.step(inputs[1], timeout=0.1)
        assert session.unsettled
        relay.resume()
        lost = session.settle()
        assert lost is not None
        assert_close(lost, truth[1])
        assert_close(session.step(inputs[2]), truth[2])


def test_attempts_are_bounded_and_the_session_lives_on(
    relay: Relay, inputs: Floats, truth: Floats
) -> None:
    events: list[Event] = []
    with (
        Client(relay.target, timeout=PATIENCE, on_event=events.append) as shaky,
        shaky.session("tiny", durability="memory") as session,
    ):
        session.step(inputs[0])
        relay.refuse()
        relay.cut()
        with pytest.raises(ServerUnreachable):
            session.step(inputs[1])
        assert session.unsettled
        relay.refuse(False)
        shaky.wait_ready(timeout=PATIENCE)
        assert_close(session.step(inputs[2]), truth[2])
    kinds = [event.kind for event in events]
    assert kinds.count("retry") == 3
    assert "disconnected" in kinds
    assert "reconnected" in kinds


def test_a_stream_gives_up_after_some_attempts_and_opens_again(
    relay: Relay, inputs: Floats, truth: Floats
) -> None:
    async def main() -> None:
        async with AsyncClient(relay.target, timeout=PATIENCE) as shaky:
            sessions = [await shaky.session("tiny", durability="memory") for _ in range(4)]
            await asyncio.gather(*(session.step(inputs[0]) for session in sessions))
            relay.refuse()
            await asyncio.to_thread(relay.cut)
            failed = await asyncio.gather(
                *(session.step(inputs[1]) for session in sessions), return_exceptions=True
            )
            assert all(isinstance(error, ServerUnreachable) for error in failed)
            assert all(session.unsettled for session in sessions)
            relay.refuse(False)
            await shaky.wait_ready(timeout=PATIENCE)
            outputs = await asyncio.gather(*(session.step(inputs[2]) for session in sessions))
            assert_close(outputs, truth[[2, 2, 2, 2]])

    asyncio.run(main())


@pytest.mark.parametrize("seed", [1, 2])
def test_no_mix_of_faults_feeds_a_step_twice(
    client: Client, relay: Relay, inputs: Floats, truth: Floats, seed: int
) -> None:
    """Cuts, cancelled tasks and short deadlines at random; every answer must be the right one."""
    dice = random.Random(seed)
    before = steps_taken(client)

    async def take(session: AsyncSession, x: Floats) -> Floats:
        """One step, however often it takes."""
        index = session.step_index
        task = asyncio.create_task(session.step(x, timeout=dice.choice([0.002, 5.0])))
        if dice.random() < 0.2:
            for _ in range(dice.randrange(30)):
                await asyncio.sleep(0)
            task.cancel()
        try:
            return await task
        except (asyncio.CancelledError, DeadlineExceeded, ServerUnreachable):
            while True:
                try:
                    lost = await session.settle()
                    break
                except (DeadlineExceeded, ServerUnreachable):
                    continue
        if lost is None:  # it had never been sent
            assert session.step_index == index
            return await take(session, x)
        return lost

    async def main() -> None:
        async with AsyncClient(relay.target, timeout=5) as shaky:
            sessions = [await shaky.session("tiny") for _ in range(16)]

            async def run(session: AsyncSession) -> None:
                for x, y in zip(inputs, truth, strict=True):
                    assert_close(await take(session, x), y)

            runs = [asyncio.create_task(run(session)) for session in sessions]
            for goal in (3, 9, 17, 26, 33):
                await until(partial(at_least, sessions[0], goal))
                cut_at_next_answer(relay)
            await asyncio.gather(*runs)

    asyncio.run(main())
    assert steps_taken(client) - before == 16 * len(inputs)
