"""Health policies: set and read; the hook is told what they do, whichever way steps travel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from carousel.client import AsyncClient, Client, Event, HealthRule, StateNotice
from carousel.errors import InvalidField
from tests.client.conftest import Floats
from tests.conftest import RunningServer
from tests.processes import PATIENCE

EVERY_SECOND = HealthRule("age", 2, "alert")
FADING = HealthRule("age", 3, "soft_reset")


@pytest.fixture
def told(server: RunningServer) -> Iterator[list[Event]]:
    """Events of state health, where `tiny` and `letters` have a policy."""
    with Client(server.target, timeout=PATIENCE) as client:
        for model in ("tiny", "letters"):
            client.set_health_policy(model, [EVERY_SECOND, FADING])
        yield []
        for model in ("tiny", "letters"):
            client.set_health_policy(model, [])


@pytest.fixture
def client(server: RunningServer, told: list[Event]) -> Iterator[Client]:
    with Client(server.target, timeout=PATIENCE, on_event=keep(told)) as client:
        yield client


def keep(told: list[Event]) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if event.kind == "state_health":
            told.append(event)

    return on_event


def alert(step_index: int, count: int = 1) -> StateNotice:
    age = step_index + 1 + 2 * (count - 1)
    return StateNotice("alert", "age", age, step_index, count)


def fading(step_index: int, count: int = 1) -> StateNotice:
    age = step_index + 1 + 3 * (count - 1)
    return StateNotice("soft_reset", "age", age, step_index, count)


def test_steps_and_chunks_tell_what_rules_did(
    client: Client, told: list[Event], inputs: Floats
) -> None:
    with client.session("tiny", session_id="watched") as session:
        for x in inputs[:4]:
            session.step(x)
        assert told == [
            Event("state_health", session="sessions/watched", notice=notice)
            for notice in (alert(1), fading(2), alert(3))
        ]
        told.clear()
        session.chunk(inputs[4:34], outputs="last")
    assert [event.notice for event in told] == [alert(5, 15), fading(5, 10)]


def test_one_message_of_many_sessions_tells_of_each(
    client: Client, told: list[Event], inputs: Floats
) -> None:
    sessions = [client.session("tiny") for _ in range(3)]
    sessions[1].step(inputs[0])
    client.step_many(sessions, inputs[:3])
    assert [(event.session, event.notice) for event in told] == [(sessions[1].name, alert(1))]
    for session in sessions:
        session.close()


def test_generations_tell_what_rules_did(client: Client, told: list[Event]) -> None:
    with client.session("letters") as session:
        for _ in session.generate([1, 2, 3], max_tokens=3):
            pass
        names = {event.session for event in told}
        assert names == {session.name}
    assert [event.notice for event in told] == [alert(1), fading(2), alert(3), alert(5), fading(5)]
    told.clear()
    for _ in client.generate("letters", [1, 2, 3], max_tokens=1):
        pass
    assert [(event.session, event.notice) for event in told] == [
        ("", alert(1)),
        ("", fading(2)),
        ("", alert(3)),
    ]


def test_held_states_tell_what_rules_did_on_the_way_to_them(
    client: Client, told: list[Event], inputs: Floats
) -> None:
    _, [first] = client.step_states("tiny", [None], inputs[:1])
    assert (first.notices, told) == ((), [])
    _, states = client.chunk_states("tiny", [first, None], [inputs[1:2], inputs[:6]])
    assert [state.notices for state in states] == [(alert(1),), (alert(1, 3), fading(2, 2))]
    assert [(event.session, event.notice) for event in told] == [
        ("", notice) for state in states for notice in state.notices
    ]


def test_coalesced_steps_tell_of_each_session(
    server: RunningServer, told: list[Event], inputs: Floats
) -> None:
    async def main() -> None:
        async with AsyncClient(server.target, timeout=PATIENCE, on_event=keep(told)) as client:
            sessions = [await client.session("tiny") for _ in range(4)]
            await sessions[2].step(inputs[0])
            await asyncio.gather(*(session.step(inputs[1]) for session in sessions))
            assert [(e.session, e.notice) for e in told] == [(sessions[2].name, alert(1))]
            told.clear()
            await asyncio.gather(*(session.chunk(inputs[:5]) for session in sessions[:2]))
            await sessions[3].chunk(inputs.repeat(2, axis=0))  # too long to be coalesced
            wanted = {(one.name, alert(1, 3)) for one in sessions[:2]}
            wanted |= {(one.name, fading(2, 2)) for one in sessions[:2]}
            wanted |= {(sessions[3].name, alert(1, 40)), (sessions[3].name, fading(2, 27))}
            assert {(e.session, e.notice) for e in told} == wanted
            assert len(told) == len(wanted)
            for session in sessions:
                await session.close()
            assert await client.get_health_policy("tiny") == (EVERY_SECOND, FADING)
            assert await client.set_health_policy("tiny", []) == ()

    asyncio.run(main())


def test_a_rule_of_unknown_words_is_refused_before_it_is_sent(client: Client) -> None:
    with pytest.raises(InvalidField, match="metric must be one of state_norm, saturation, age"):
        client.set_health_policy("tiny", [HealthRule("mood", 1, "alert")])  # type: ignore[arg-type]
    with pytest.raises(InvalidField, match="action must be one of alert, clip"):
        client.set_health_policy("tiny", [HealthRule("age", 1, "cheer")])  # type: ignore[arg-type]
