"""Replays: the past steps of audited sessions, computed again; the same with both clients."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from carousel.client import AsyncClient, AuditEvent, Client, ReplayedStep, Snapshot
from carousel.errors import AuditDamaged, AuditNotFound, InvalidField
from tests.client.conftest import Floats, assert_close
from tests.conftest import RunningServer, running


@pytest.fixture(scope="module")
def server(model_store: Path) -> Iterator[RunningServer]:
    """A server whose logs have the state again every 8 steps."""
    with running(store=model_store, shipped=False, audit_state_every=8) as server:
        yield server


def outputs(steps: list[ReplayedStep]) -> Floats:
    return np.stack([step.output for step in steps if step.output is not None])


def indexes(steps: list[ReplayedStep]) -> list[int]:
    return [step.step_index for step in steps]


def test_a_replay_gives_every_step_that_was_answered(client: Client, inputs: Floats) -> None:
    with client.session("tiny", audit=True) as session:
        assert session.info.audited
        single = [session.step(x) for x in inputs[:11]]
        chunk = session.chunk(inputs[11:])
        replay = client.replay(session)
        steps = list(replay)
    np.testing.assert_array_equal(outputs(steps), np.concatenate([single, chunk]))
    np.testing.assert_array_equal([step.input for step in steps], inputs)
    assert indexes(steps) == list(range(40))
    assert all(step.matches and step.difference < 1e-5 for step in steps)
    assert not any(step.exact or step.superseded for step in steps)
    assert [step.event for step in steps] == [AuditEvent.CREATED, *[None] * 39]
    assert {step.model_version for step in steps} == {"models/tiny/versions/1"}
    assert replay.summary is not None
    assert (replay.summary.steps, replay.summary.mismatches) == (40, 0)
    assert replay.summary.good
    assert replay.summary.complete
    assert len(bytes.fromhex(replay.summary.chain)) == 32


def test_generated_tokens_are_replayed(client: Client) -> None:
    with client.session("letters", audit=True) as session:
        prompt = [1, 2, 3]
        tokens = [token.id or 0 for token in session.generate(prompt, max_tokens=20, seed=5)]
        steps = list(client.replay(session))
    assert [step.input for step in steps] == prompt + tokens
    with client.session("letters") as other:
        assert_close(outputs(steps), other.chunk(prompt + tokens))


def test_a_range_begins_at_the_nearest_earlier_state(client: Client, inputs: Floats) -> None:
    with client.session("tiny", audit=True, session_id="range") as session:
        truth = np.stack([session.step(x) for x in inputs])
    for start, stop in ((0, 3), (13, 21), (16, 17), (39, None), (40, None), (5, 5)):
        steps = list(client.replay("range", start=start, stop=stop))
        expected = range(start, 40 if stop is None else stop)
        assert indexes(steps) == list(expected)
        assert all(step.matches for step in steps)
        if steps:
            np.testing.assert_array_equal(outputs(steps), truth[expected.start : expected.stop])


def test_what_was_undone_is_replayed_too(client: Client, inputs: Floats) -> None:
    with client.session("tiny", audit=True, rewind_depth=4) as session:
        told = [session.step(x) for x in inputs[:10]]
        session.rewind(steps=3)
        told += [session.step(x) for x in inputs[20:22]]
        session.reset()
        told += list(session.chunk(inputs[:2]))
        steps = list(client.replay(session))
        np.testing.assert_array_equal(outputs(steps), np.stack(told))
        assert indexes(steps) == [*range(10), 7, 8, 0, 1]
        assert [step.superseded for step in steps] == [True] * 12 + [False] * 2
        events = {place: step.event for place, step in enumerate(steps) if step.event}
        assert events == {
            0: AuditEvent.CREATED, 10: AuditEvent.REWOUND, 12: AuditEvent.RESET,
        }  # fmt: skip
        assert all(step.matches for step in steps)
        # An event that no step followed undoes too.
        session.rewind(steps=1)
        assert [step.superseded for step in client.replay(session)][-2:] == [False, True]


def test_given_copied_imported_and_moved_states_are_where_a_replay_begins(
    client: Client, inputs: Floats
) -> None:
    with client.session("tiny") as other:
        other.chunk(inputs[:5])
        snapshot = Snapshot.from_bytes(other.export().to_bytes())
    with client.session("tiny", audit=True, initial_state=snapshot.tensors) as given:
        told = [given.step(x) for x in inputs[5:8]]
        np.testing.assert_array_equal(outputs(list(client.replay(given))), told)
        [copy] = given.fork(1)
        assert copy.info.audited
        more = copy.step(inputs[8])
        [step] = client.replay(copy)
        assert (step.step_index, step.event) == (3, AuditEvent.FORKED)
        np.testing.assert_array_equal(step.output, more)
    with client.import_session(snapshot, audit=True) as imported:
        told = [imported.step(inputs[5])]
        imported.migrate("tiny/1")
        told.append(imported.step(inputs[6]))
        steps = list(client.replay(imported))
        assert [step.event for step in steps] == [AuditEvent.IMPORTED, AuditEvent.MIGRATED]
        assert indexes(steps) == [5, 6]
        np.testing.assert_array_equal(outputs(steps), told)
        assert all(step.matches for step in steps)
    with client.session("letters", prefix=[1, 2, 3], audit=True) as prefixed:
        output = prefixed.step(4)
        [step] = client.replay(prefixed)
        assert (step.step_index, step.input, step.matches) == (3, 4, True)
        np.testing.assert_array_equal(step.output, output)


def test_verifying_leaves_inputs_and_outputs_where_they_are(client: Client, inputs: Floats) -> None:
    with client.session("tiny", audit=True) as session:
        session.chunk(inputs)
        with client.replay(session, verify_only=True) as replay:
            steps = list(replay)
    assert {(step.input is None, step.output is None, step.matches) for step in steps} == {
        (True, True, True)
    }
    assert len(steps) == 40


def test_both_clients_replay_alike(server: RunningServer, client: Client, inputs: Floats) -> None:
    async def main() -> list[ReplayedStep]:
        async with AsyncClient(server.target) as client:
            async with client.session("tiny", audit=True, session_id="alike") as session:
                await session.chunk(inputs)
            async with client.replay("alike", start=3) as replay:
                steps = [step async for step in replay]
            assert replay.summary is not None
            assert replay.summary.good
            with pytest.raises(AuditNotFound):
                async for _ in client.replay("nobody"):
                    pass
            return steps

    theirs, ours = asyncio.run(main()), list(client.replay("alike", start=3))
    np.testing.assert_array_equal(outputs(theirs), outputs(ours))
    assert indexes(theirs) == indexes(ours)


def test_a_replay_that_is_left_stops(client: Client, inputs: Floats) -> None:
    with client.session("tiny", audit=True) as session:
        session.chunk(inputs)
        with client.replay(session) as replay:
            assert next(replay).step_index == 0
        assert replay.summary is None
        assert len(list(client.replay(session))) == 40


def test_only_what_was_audited_can_be_replayed(client: Client, inputs: Floats) -> None:
    with client.session("tiny") as session:
        session.step(inputs[0])
        assert not session.info.audited
        with pytest.raises(AuditNotFound, match="no audit log"):
            list(client.replay(session))
    with pytest.raises(InvalidField, match="stop not below"):
        client.replay("tiny", start=4, stop=3)


def test_an_id_that_is_used_again_names_its_last_audited_session(
    client: Client, inputs: Floats
) -> None:
    for count in (3, 5):
        with client.session("tiny", audit=True, session_id="again") as session:
            session.chunk(inputs[:count])
    assert client.get_session("again").audited
    assert len(list(client.replay("again"))) == 5


def test_a_damaged_log_says_where_and_gives_what_is_before(
    client: Client, server: RunningServer, inputs: Floats
) -> None:
    with client.session("tiny", audit=True, session_id="damaged") as session:
        for x in inputs[:20]:
            session.step(x)
            list(client.replay(session, stop=0))  # so that each step is an entry of its own
    [file] = (server.settings.audit_folder / "damaged").iterdir()
    data = bytearray(file.read_bytes())
    data[-200] ^= 4
    file.write_bytes(data)
    with pytest.raises(AuditDamaged) as failure:
        list(client.replay("damaged"))
    sound = int(failure.value.metadata["step_index"])
    assert 0 < sound < 20
    assert indexes(list(client.replay("damaged", stop=sound))) == list(range(sound))
    with pytest.raises(AuditDamaged):
        list(client.replay("damaged", start=sound - 1, stop=sound + 1))
