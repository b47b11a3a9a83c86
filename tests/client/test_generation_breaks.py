"""Generations go on where they broke: every token comes once, and is fed once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carousel.client import AsyncClient, Client, Event, Token
from carousel.errors import Cancelled, ServerDraining, ServerUnreachable, SessionEnded
from tests.client.conftest import assert_close
from tests.client.relay import Relay
from tests.conftest import RunningServer
from tests.processes import PATIENCE, until

TEXT = "In the beginning "
MODEL = "king-james"
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.9, "top_k": 20, "seed": 11, "log_probabilities": 3},
    "penalised": {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3, "seed": 4},
    "stopped": {"temperature": 0.5, "seed": 5, "stop": ["never this", " LORD"]},
}
MANY = 60


def cut_every(relay: Relay, size: int) -> None:
    """Lose the connection, and what has just arrived, whenever the server has said so much.

    In small parts: of a slow machine's large ones all would be lost, with every token in them.
    """
    relay.most = 50
    goal = relay.answered + size

    def cut(total: int) -> None:
        nonlocal goal
        if total >= goal:
            goal = total + size
            relay.cut_here()

    relay.on_answer = cut


def assert_same(tokens: list[Token], others: list[Token]) -> None:
    def apart(token: Token) -> tuple[object, ...]:
        return (token.id, token.text, token.finish_reason, [one.id for one in token.top])

    def numbers(token: Token) -> list[float]:
        return [token.log_probability or 0.0, *(one.log_probability for one in token.top)]

    assert [apart(token) for token in tokens] == [apart(other) for other in others]
    for token, other in zip(tokens, others, strict=True):
        assert (token.log_probability is None) == (other.log_probability is None)
        np.testing.assert_allclose(numbers(token), numbers(other), atol=1e-5)


def steps_taken(client: Client, model: str = MODEL) -> float:
    return client.statistics().value("carousel_steps_total", model=model)


@pytest.mark.parametrize("durability", ["memory", "async"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_connection_costs_no_token(
    client: Client, relay: Relay, kind: str, durability: str
) -> None:
    events: list[Event] = []
    with client.session(MODEL) as session:
        whole = list(session.generate(TEXT, max_tokens=MANY, **KINDS[kind]))
        following = session.step(3)
    before = steps_taken(client)
    with (
        Client(relay.target, timeout=PATIENCE, on_event=events.append) as shaky,
        shaky.session(MODEL, durability=durability) as session,
    ):
        cut_every(relay, 500)
        stream = session.generate(TEXT, max_tokens=MANY, **KINDS[kind])
        assert_same(list(stream), whole)
        relay.on_answer = lambda total: None
        assert stream.text == "".join(token.text for token in whole)
        assert stream.generated_tokens == len(whole)
        assert stream.prompt_tokens == len(TEXT)
        assert session.step_index == len(TEXT) + len(whole)
        assert_close(session.step(3), following)
    assert steps_taken(client) - before == len(TEXT) + len(whole) + 1
    assert sum(event.kind == "retry" for event in events) >= 2


@pytest.mark.parametrize("kind", ["sampled", "stopped"])
def test_both_clients_go_on(client: Client, relay: Relay, kind: str) -> None:
    whole = list(client.generate(MODEL, TEXT, max_tokens=MANY, **KINDS[kind]))
    events: list[Event] = []

    async def main() -> None:
        async with (
            AsyncClient(relay.target, timeout=PATIENCE, on_event=events.append) as shaky,
            shaky.session(MODEL) as session,
        ):
            await session.refresh()
            cut_every(relay, 500)
            stream = session.generate(TEXT, max_tokens=MANY, **KINDS[kind])
            assert_same([token async for token in stream], whole)
            alone = shaky.generate(MODEL, TEXT, max_tokens=MANY, **KINDS[kind])
            assert_same([token async for token in alone], whole)
            relay.on_answer = lambda total: None
            assert (await session.refresh()).step_index == session.step_index

    asyncio.run(main())
    assert sum(event.kind == "retry" for event in events) >= 4
    with Client(relay.target, timeout=PATIENCE) as shaky:
        cut_every(relay, 500)
        assert_same(list(shaky.generate(MODEL, TEXT, max_tokens=MANY, **KINDS[kind])), whole)


def test_a_cut_while_a_token_is_awaited(client: Client, relay: Relay) -> None:
    """Without a seed of the caller's: the client's own makes the rest come out the same."""
    with Client(relay.target, timeout=PATIENCE) as shaky, shaky.session(MODEL) as session:
        ids = []
        stream = session.generate(TEXT, max_tokens=300)
        for number, token in enumerate(stream):
            ids.append(token.id)
            if number in (0, 40, 41):
                relay.cut()
        other = client.generate(MODEL, TEXT, max_tokens=300, seed=stream.seed)
        assert ids == [token.id for token in other]


def test_a_cancelled_task_loses_no_token(client: Client, relay: Relay) -> None:
    whole = [token.id for token in client.generate(MODEL, TEXT, max_tokens=MANY, seed=3)]

    async def main() -> None:
        async with (
            AsyncClient(relay.target, timeout=PATIENCE) as shaky,
            shaky.session(MODEL) as session,
        ):
            await session.refresh()
            stream = session.generate(TEXT, max_tokens=MANY, seed=3)
            ids: list[int | None] = []
            for number in range(MANY):
                if number % 20 == 10:
                    relay.stall()
                    task = asyncio.create_task(anext(stream))
                    for _ in range(20):
                        await asyncio.sleep(0)
                    if not task.done():
                        task.cancel()
                    relay.resume()
                    try:
                        ids.append((await task).id)
                        continue
                    except asyncio.CancelledError:
                        pass
                ids.append((await anext(stream)).id)
            assert ids == whole

    asyncio.run(main())


def test_attempts_are_bounded_and_the_session_lives_on(relay: Relay) -> None:
    events: list[Event] = []
    with (
        Client(relay.target, timeout=PATIENCE, on_event=events.append) as shaky,
        shaky.session(MODEL, durability="memory") as session,
    ):
        stream = session.generate(TEXT, max_tokens=4000)
        next(stream)
        relay.refuse()
        relay.cut()
        with pytest.raises(ServerUnreachable):
            list(stream)
        relay.refuse(False)
        shaky.wait_ready(timeout=PATIENCE)
        assert len(session.step(3)) > 0
        assert session.refresh().step_index == session.step_index
    assert [event.kind for event in events].count("retry") == 3


def test_a_session_that_ended_meanwhile_ends_its_generation(client: Client, relay: Relay) -> None:
    with Client(relay.target, timeout=PATIENCE) as shaky, shaky.session(MODEL) as session:
        stream = session.generate(TEXT, max_tokens=4000)
        next(stream)
        client.delete_session(session.name)
        with pytest.raises(SessionEnded):
            list(stream)


def test_a_broken_generation_can_be_cut_short(relay: Relay) -> None:
    async def main() -> None:
        async with (
            AsyncClient(relay.target, timeout=PATIENCE) as shaky,
            shaky.session(MODEL) as session,
        ):
            stream = session.generate(TEXT, max_tokens=4000)
            await anext(stream)
            relay.refuse()
            await asyncio.to_thread(relay.cut)

            async def read() -> None:
                async for _ in stream:
                    pass

            reader = asyncio.create_task(read())
            for _ in range(20):
                await asyncio.sleep(0)
            relay.refuse(False)
            await shaky.wait_ready(timeout=PATIENCE)
            await session.step(3)
            with pytest.raises(Cancelled):
                await reader
            assert (await session.refresh()).step_index == session.step_index

    asyncio.run(main())


def test_what_the_store_missed_of_a_generation_is_fed_again(
    client: Client, serve: Callable[..., RunningServer], tmp_path: Path
) -> None:
    """A server goes; its successor has the state of before two generations and a half."""
    many = 1500
    with client.session(MODEL) as session:
        session.step(3)
        one = list(session.generate(TEXT, max_tokens=25, **KINDS["stopped"]))
        two = list(session.generate(TEXT, max_tokens=20, **KINDS["penalised"]))
        whole = [token.id for token in session.generate([5, 6], max_tokens=many, seed=3)]
        following = session.step(4)
    events: list[Event] = []
    first = serve()
    with Client(first.target, timeout=PATIENCE, on_event=events.append) as moving:
        session = moving.session(MODEL)
        session.step(3)
        until(lambda: session.refresh().durable_index == 1)
        with (
            closing(sqlite3.connect(tmp_path / "data" / "sessions.db")) as now,
            closing(sqlite3.connect(tmp_path / "sessions.db")) as then,
        ):
            now.backup(then)
        second = serve(session_store=str(tmp_path / "sessions.db"))
        assert_same(list(session.generate(TEXT, max_tokens=25, **KINDS["stopped"])), one)
        assert_same(list(session.generate(TEXT, max_tokens=20, **KINDS["penalised"])), two)
        ids = []
        for token in session.generate([5, 6], max_tokens=many, seed=3):
            ids.append(token.id)
            if len(ids) == 20:
                server, successor = first.server, second.target
                first.loop.call_soon_threadsafe(partial(server.drain, successor=successor))
        assert ids == whole
        assert_close(session.step(4), following)
        assert session.step_index == moving.get_session(session.name).step_index
    with Client(second.target) as other:
        fed = 2 * len(TEXT) + 2 + len(one) + len(two) + many + 1
        assert steps_taken(other) == fed
    assert any(isinstance(event.error, ServerDraining) for event in events)
    assert [event.kind for event in events].count("session_recovered") == 1
    first.join()
