"""Sessions: made, found, copied, moved and ended; the same with both clients."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from carousel.client import AsyncClient, Client, EndReason, Event, SessionState, Snapshot
from carousel.errors import (
    InvalidField,
    ModelNotFound,
    NoTokenizer,
    RewindUnavailable,
    SealBroken,
    SessionEnded,
    SessionExists,
    SessionFenced,
    SessionNotFound,
    SessionQuarantined,
    SnapshotDamaged,
    SnapshotMismatch,
)
from tests.client.conftest import Floats, assert_close
from tests.conftest import RunningServer


def test_a_session_lives_as_long_as_its_block(client: Client) -> None:
    with client.session("tiny/1", session_id="block") as session:
        assert session.name == "sessions/block"
        assert session.id == "block"
        assert session.model_version == "models/tiny/versions/1"
        assert session.state is SessionState.ACTIVE
        assert session.expire_time > datetime.now(UTC)
        with pytest.raises(SessionExists):
            client.session("tiny", session_id="block")
    info = client.get_session("block")
    assert (info.state, info.end_reason) == (SessionState.ENDED, EndReason.CLOSED)
    with pytest.raises(SessionEnded):
        session.step([1, 2, 3])
    session.close()


def test_a_session_can_begin_with_a_prefix_of_text_tokens_or_features(
    server: RunningServer, client: Client, inputs: Floats, truth: Floats
) -> None:
    with client.session("tiny", prefix=inputs[:30]) as session:
        assert session.step_index == 30
        assert_close(session.chunk(inputs[30:]), truth[30:])
    text = "In the beginning "
    whole = client.generate("king-james", text, max_tokens=9, temperature=0)
    with client.session("king-james", prefix=text) as session:
        assert session.step_index == len(text)
        made = session.generate(max_tokens=9, temperature=0)
        assert [token.id for token in made] == [token.id for token in whole]

    async def main() -> None:
        async with (
            AsyncClient(server.target) as other,
            other.session("letters", prefix=[3, 1, 4]) as session,
        ):
            assert session.step_index == 3
            assert_close(await session.step(1), client.predict("letters", [[3, 1, 4, 1]])[0][3])

    asyncio.run(main())
    with pytest.raises(NoTokenizer):
        client.session("tiny", prefix="text")


def test_terms_are_kept(client: Client) -> None:
    with client.session("tiny", ttl=90, lifetime=timedelta(hours=1), rewind_depth=2) as session:
        assert session.info.ttl == timedelta(seconds=90)
        assert session.info.lifetime == timedelta(hours=1)
        assert session.info.rewind_depth == 2
        before = session.expire_time
        assert session.touch(ttl=600).ttl == timedelta(minutes=10)
        assert session.expire_time > before
        session.step([1, 2, 3])
        assert session.refresh().step_index == 1
    with pytest.raises(InvalidField):
        client.session("tiny", ttl=-1)
    with pytest.raises(InvalidField, match="10,000 years"):
        client.session("tiny", lifetime=float("inf"))
    with pytest.raises(ModelNotFound):
        client.session("nowhere")


def test_the_first_state_can_be_given(client: Client, inputs: Floats) -> None:
    with client.session("tiny") as session:
        session.chunk(inputs[:9])
        snapshot = session.export()
        with client.session("tiny", initial_state=snapshot.tensors) as other:
            assert_close(session.step(inputs[9]), other.step(inputs[9]))
            assert other.step_index == 1


def test_lists_have_every_session_once(client: Client) -> None:
    names = {client.session("letters").name for _ in range(12)}
    listed = [info.name for info in client.list_sessions(model="letters")]
    assert names <= set(listed)
    assert len(listed) == len(set(listed))
    for name in names:
        client.delete_session(name)
    assert not names & {info.name for info in client.list_sessions()}
    with pytest.raises(SessionNotFound):
        client.get_session("nobody")


def test_attaching_fences_the_former_holder(client: Client, inputs: Floats, truth: Floats) -> None:
    former = client.session("tiny")
    former.step(inputs[0])
    with client.attach(former.id) as session:
        assert session.step_index == 1
        with pytest.raises(SessionFenced):
            former.step(inputs[1])
        former.close()
        assert_close(session.step(inputs[1]), truth[1])


def test_forks_go_on_alone(client: Client, inputs: Floats, truth: Floats) -> None:
    with client.session("tiny") as session:
        session.chunk(inputs[:5])
        copies = session.fork(3)
        named = session.fork(session_ids=["fork-a", "fork-b"])
        assert [copy.id for copy in named] == ["fork-a", "fork-b"]
        for copy in (*copies, *named):
            with copy:
                assert copy.step_index == 5
                assert_close(copy.step(inputs[5]), truth[5])
        assert_close(session.step(inputs[5]), truth[5])
        with pytest.raises(InvalidField):
            session.fork(0)


def test_rewind_and_reset_go_back(client: Client, inputs: Floats, truth: Floats) -> None:
    with client.session("tiny", rewind_depth=4) as session:
        for x in inputs[:8]:
            session.step(x)
        session.rewind(steps=2)
        assert session.step_index == 6
        assert_close(session.step(inputs[6]), truth[6])
        session.rewind(step_index=5)
        assert_close(session.step(inputs[5]), truth[5])
        with pytest.raises(RewindUnavailable):
            session.rewind(step_index=0)
        with pytest.raises(InvalidField):
            session.rewind()
        session.reset()
        assert session.step_index == 0
        assert_close(session.step(inputs[0]), truth[0])


def test_snapshots_go_on_elsewhere(client: Client, inputs: Floats, truth: Floats) -> None:
    with client.session("tiny") as session:
        session.chunk(inputs[:5])
        data = session.export().to_bytes()
    snapshot = Snapshot.from_bytes(data)
    assert snapshot.step_index == 5
    assert {name: array.shape for name, array in snapshot.tensors.items()} == {
        "h": (2, 8),
        "c": (2, 8),
    }
    with client.import_session(snapshot) as session:
        assert session.step_index == 5
        assert_close(session.step(inputs[5]), truth[5])
    with pytest.raises(SnapshotMismatch):
        client.import_session(snapshot, model="letters")
    numbers = data.index(snapshot.tensors["c"].tobytes())
    for place in (10, numbers):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(SnapshotDamaged):
            Snapshot.from_bytes(bytes(damaged))
    forged = data[:-1] + bytes([data[-1] ^ 1])  # of the seal, which only servers can look at
    with pytest.raises(SealBroken):
        client.import_session(Snapshot.from_bytes(forged))


def test_a_quarantined_session_can_be_rescued(client: Client) -> None:
    with client.session("explosive", rewind_depth=2) as session:
        with pytest.raises(SessionQuarantined):
            session.chunk([[3e37]] * 20)
        assert session.state == "quarantined"
        with pytest.raises(SessionQuarantined):
            session.step([1.0])
        session.reset()
        assert session.state == "active"
        session.step([1.0])


def test_the_asynchronous_life_is_the_same(
    server: RunningServer, inputs: Floats, truth: Floats
) -> None:
    events: list[Event] = []

    async def main() -> None:
        async with AsyncClient(server.target, on_event=events.append) as client:
            session = await client.session("tiny", rewind_depth=2)
            async with session:
                await session.chunk(inputs[:5])
                (copy,) = await session.fork()
                async with copy:
                    assert_close(await copy.step(inputs[5]), truth[5])
                await session.rewind(steps=1)
                assert_close(await session.step(inputs[4]), truth[4])
                async with client.import_session(await session.export()) as other:
                    assert_close(await other.step(inputs[5]), truth[5])
                await session.reset()
                assert_close(await session.step(inputs[0]), truth[0])
                names = [info.name async for info in client.list_sessions(model="tiny/1")]
                assert session.name in names
                assert (await session.touch()).step_index == 1
                taken = await client.attach(session.name)
                with pytest.raises(SessionFenced):
                    await session.step(inputs[1])
                outputs = await client.step_many([taken], inputs[1:2])
                assert_close(outputs, truth[1:2])
                await taken.close()
            assert (await client.get_session(session.name)).state is SessionState.ENDED

    asyncio.run(main())
    assert [event.kind for event in events[:2]] == ["connected", "session_created"]
    assert events[-1].kind == "session_ended"


def test_a_hook_that_fails_breaks_nothing(server: RunningServer) -> None:
    def hook(event: Event) -> None:
        raise RuntimeError("no")

    with Client(server.target, on_event=hook) as client, client.session("tiny") as session:
        session.step([1, 2, 3])
