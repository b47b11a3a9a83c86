"""Generation: both clients, early ends, and the session after it."""

from __future__ import annotations

import asyncio

import pytest

from carousel.client import AsyncClient, Client, FinishReason
from carousel.errors import Cancelled, InvalidField, ModelNotFound, NotGenerative, TokenOutOfRange
from tests.client.conftest import assert_close, until
from tests.conftest import RunningServer

PROMPT = [3, 1, 4]


def test_both_clients_write_the_same(server: RunningServer, client: Client) -> None:
    options = {"max_tokens": 12, "seed": 5, "temperature": 0.8, "top_k": 6}
    stream = client.generate("letters", PROMPT, **options)  # type: ignore[arg-type]
    ours = [token.id for token in stream]
    assert len(ours) == 12
    assert stream.finish_reason is FinishReason.LENGTH
    assert (stream.prompt_tokens, stream.generated_tokens, stream.seed) == (3, 12, 5)

    async def main() -> list[int | None]:
        async with AsyncClient(server.target) as other:
            stream = other.generate("letters", PROMPT, **options)  # type: ignore[arg-type]
            return [token.id async for token in stream]

    assert asyncio.run(main()) == ours


def test_a_generation_moves_its_session(client: Client) -> None:
    with client.session("letters") as session, client.session("letters") as other:
        made = [token.id for token in session.generate(PROMPT, max_tokens=6, temperature=0)]
        assert session.step_index == 9
        other.chunk([*PROMPT, *(token for token in made if token is not None)])
        assert_close(session.step(2), other.step(2))
        assert [t.id for t in session.generate(max_tokens=2)] != []


def test_log_probabilities_come_when_asked_for(client: Client) -> None:
    tokens = list(client.generate("letters", PROMPT, max_tokens=3, log_probabilities=4))
    for token in tokens:
        assert token.log_probability is not None
        assert token.log_probability <= 0
        assert [one.log_probability for one in token.top] == sorted(
            (one.log_probability for one in token.top), reverse=True
        )
        assert len(token.top) == 4
    assert [token.finish_reason for token in tokens] == [None, None, FinishReason.LENGTH]
    assert next(iter(client.generate("letters", PROMPT))).log_probability is None


def test_leaving_a_generation_stops_it_and_keeps_the_session(client: Client) -> None:
    with client.session("letters") as session:
        handle = session.handle
        for _ in session.generate(PROMPT, max_tokens=4000):
            break
        session.step(1)
        info = session.refresh()
        assert session.handle != handle
        assert 4 < session.step_index < 4000
        assert info.step_index == session.step_index


def test_the_next_use_ends_a_generation(server: RunningServer) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client, client.session("letters") as session:
            stream = session.generate(PROMPT, max_tokens=4000)
            first = await anext(stream)
            assert first.id is not None
            await session.step(1)
            with pytest.raises(Cancelled):
                await anext(stream)
            assert (await session.refresh()).step_index == session.step_index

            stream = session.generate(PROMPT, max_tokens=4000)

            async def read() -> None:
                async for _ in stream:
                    pass

            reader = asyncio.create_task(read())
            await until(lambda: stream.generated_tokens > 0)
            await session.step(1)
            with pytest.raises(Cancelled):
                await reader
            assert (await session.refresh()).step_index == session.step_index

    asyncio.run(main())


def test_a_generation_can_be_closed(server: RunningServer, client: Client) -> None:
    with client.generate("letters", PROMPT, max_tokens=4000) as stream:
        next(stream)
    assert list(stream) == []
    assert stream.finish_reason is None

    async def main() -> None:
        async with AsyncClient(server.target) as other:
            async with other.generate("letters", PROMPT, max_tokens=4000) as stream:
                await anext(stream)
            assert [token async for token in stream] == []

    asyncio.run(main())


def test_generation_refuses_what_it_cannot_do(client: Client) -> None:
    with pytest.raises(ModelNotFound):
        next(client.generate("nowhere", PROMPT))
    with pytest.raises(NotGenerative):
        next(client.generate("tiny", PROMPT))
    with pytest.raises(InvalidField):
        client.generate("letters", PROMPT, max_tokens=0)
    with pytest.raises(InvalidField):
        next(client.generate("letters", PROMPT, temperature=-1.0))
    with pytest.raises(TokenOutOfRange):
        next(client.generate("letters", [11]))
    with client.session("letters") as session:
        with pytest.raises(InvalidField):
            next(session.generate())
        assert len(session.step(1)) == 11
