"""States that the caller keeps: the same numbers as sessions, with both clients."""

from __future__ import annotations

import asyncio
import pickle

import numpy as np
import pytest

from carousel.client import AsyncClient, Client, HeldState, StepErrors, _held
from carousel.errors import ChunkTooLong, InputMismatch, InvalidField, NonFiniteResult, SealBroken
from tests.client.conftest import Floats, assert_close
from tests.conftest import RunningServer


def test_one_stream_of_steps_gives_the_numbers_of_a_session(
    client: Client, inputs: Floats, truth: Floats
) -> None:
    states: list[HeldState | bytes | None] = [None]
    for step, x in enumerate(inputs):
        outputs, after = client.step_states("tiny", states, [x])
        assert_close(outputs, truth[step : step + 1])
        assert after[0].step_index == step + 1
        assert after[0].model_version == "models/tiny/versions/1"
        states = [after[0] if step % 2 else bytes(after[0])]  # as it is kept makes no difference


def test_both_clients_give_the_same_steps_and_chunks(
    server: RunningServer, client: Client, inputs: Floats, truth: Floats
) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as other:
            outputs, states = await other.step_states("tiny", [None, None], inputs[[0, 0]])
            assert_close(outputs, truth[[0, 0]])
            # One goes on here, one there; neither is told of the other.
            chunks = [inputs[1:30], inputs[1:3]]
            ours, _ = client.chunk_states("tiny", states, chunks)
            theirs, after = await other.chunk_states("tiny", states, chunks)
            for mine, its, end in zip(ours, theirs, (30, 3), strict=True):
                np.testing.assert_array_equal(mine, its)
                assert_close(mine, truth[1:end])
            assert [state.step_index for state in after] == [30, 3]
            last, _ = await other.chunk_states("tiny", states, chunks, outputs="last")
            assert_close(last, truth[[29, 2]])
            nothing, _ = await other.chunk_states("tiny", states, chunks, outputs="none")
            assert [rows.shape for rows in nothing] == [(0, 2), (0, 2)]

    asyncio.run(main())


def test_tokens_are_steps_or_chunks(client: Client) -> None:
    whole = client.predict("letters", [[3, 1, 4, 1]])[0]
    first, states = client.step_states("letters", [None], [3])
    [rest], _ = client.chunk_states("letters", states, [[1, 4, 1]])
    assert_close(np.concatenate([first, rest]), whole)


def test_a_state_is_a_value_that_can_be_stored(client: Client, inputs: Floats) -> None:
    _, [state] = client.step_states("tiny", [None], inputs[:1])
    again = pickle.loads(pickle.dumps(state))
    assert again == state
    assert bytes(again) == state.data
    want, _ = client.step_states("tiny", [state], inputs[1:2])
    got, _ = client.step_states("tiny", [bytes(again)], inputs[1:2])
    np.testing.assert_array_equal(got, want)


def test_those_that_failed_are_told_and_the_others_are_there(client: Client) -> None:
    fine = np.ones((1, 1), np.float32)
    with pytest.raises(StepErrors) as raised:
        client.chunk_states("explosive", [None, b"forged", None], [fine, fine, fine * 3e38])
    failed = raised.value
    assert {place: type(error) for place, error in failed.errors.items()} == {
        1: SealBroken,
        2: NonFiniteResult,
    }
    assert [state is None for state in failed.states] == [False, True, True]
    assert np.isnan(failed.outputs[1:]).all()
    good = failed.states[0]
    assert good is not None
    assert good.step_index == 1
    np.testing.assert_array_equal(
        failed.outputs[:1], client.step_states("explosive", [None], fine)[0]
    )
    with pytest.raises(ExceptionGroup) as group:
        client.step_states("tiny", [b"forged"], [[1.0, 2.0, 3.0]])
    assert group.group_contains(SealBroken)


def test_more_states_than_one_message_takes_travel_as_several(
    client: Client, inputs: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = client.step_states("tiny", [None] * 40, inputs)
    monkeypatch.setattr(_held, "MAX_STATES", 16)
    before = client.statistics().value("grpc_server_msg_received_total", grpc_method="StepStates")
    outputs, states = client.step_states("tiny", [None] * 40, inputs)
    assert_close(outputs, wanted)
    assert [state.step_index for state in states] == [1] * 40
    lengths = np.arange(1, 41)
    chunks, _ = client.chunk_states("tiny", states, [inputs[:length] for length in lengths])
    assert [len(rows) for rows in chunks] == lengths.tolist()
    received = client.statistics().value("grpc_server_msg_received_total", grpc_method="StepStates")
    assert received - before == 6
    with pytest.raises(StepErrors) as raised:
        client.step_states("tiny", [*states[:20], b"forged", *states[21:]], inputs)
    assert list(raised.value.errors) == [20]


def test_inputs_that_do_not_fit_are_refused_before_anything_is_sent(
    client: Client, inputs: Floats
) -> None:
    assert client.step_states("tiny", [], [])[1] == []
    assert client.chunk_states("tiny", [], []) == ([], [])
    with pytest.raises(InputMismatch, match="for each of 2 states, got 3"):
        client.step_states("tiny", [None] * 2, inputs[:3])
    with pytest.raises(InputMismatch, match=r"alike, got widths \[0, 3\]"):
        client.chunk_states("tiny", [None] * 2, [inputs, [1, 2]])
    with pytest.raises(ChunkTooLong):
        client.chunk_states("tiny", [None], [inputs[:0]])
    for nothing in (b"", "", "a state"):
        with pytest.raises(InvalidField, match=r"states\[1\] must be what a step gave, or None"):
            client.step_states("tiny", [None, nothing], inputs[:2])  # type: ignore[list-item]
