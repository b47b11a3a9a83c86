"""Steps: both clients give the reference's numbers, by steps, chunks and many at once."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from carousel.client import AsyncClient, Client, StepErrors
from carousel.errors import InputMismatch, InvalidField, NonFiniteInput, SessionEnded
from tests.client.conftest import Floats, assert_close
from tests.conftest import RunningServer


def test_split_sequence_equals_whole(client: Client, inputs: Floats, truth: Floats) -> None:
    with client.session("tiny") as session:
        first = [session.step(x) for x in inputs[:5]]
        middle = session.chunk(inputs[5:30])
        last = session.chunk(inputs[30:39], outputs="last")
        nothing = session.chunk(inputs[39:], outputs="none")
        assert session.step_index == len(inputs)
    assert_close(np.concatenate([first, middle]), truth[:30])
    assert_close(last, truth[38])
    assert nothing.shape == (0, 2)


def test_both_clients_give_the_same_numbers(
    server: RunningServer, inputs: Floats, truth: Floats
) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client, client.session("tiny") as session:
            first = [await session.step(x) for x in inputs[:5]]
            middle = await session.chunk(inputs[5:30])
            last = await session.chunk(inputs[30:39], outputs="last")
            one = await session.chunk(inputs[39:])
            assert session.step_index == len(inputs)
            predicted = await client.predict("tiny", [inputs, inputs[:7]])
            tails = await client.predict("tiny", [inputs, inputs[:7]], outputs="last")
        assert_close(np.concatenate([first, middle]), truth[:30])
        assert_close(last, truth[38])
        assert_close(one, truth[39:])
        assert_close(predicted[0], truth)
        assert_close(predicted[1], truth[:7])
        assert_close(tails, truth[[39, 6]])

    asyncio.run(main())


def test_inputs_may_be_of_any_number_type(client: Client, inputs: Floats) -> None:
    with client.session("tiny") as one, client.session("tiny") as other:
        np.testing.assert_array_equal(one.step(inputs[0]), other.step(inputs[0].tolist()))
        np.testing.assert_array_equal(one.step(inputs[1]), other.step(inputs[1].astype(np.float64)))
        np.testing.assert_array_equal(one.step([1.0, 2.0, 3.0]), other.step([1, 2, 3]))


def test_tokens_are_whole_numbers(client: Client) -> None:
    tokens = np.array([3, 1, 4, 1, 5])
    whole = client.predict("letters", [tokens])[0]
    with client.session("letters") as session:
        steps = [session.step(3), session.step(np.int32(1))]
        rest = session.chunk(tokens[2:].astype(np.uint8))
    assert_close(np.concatenate([steps, rest]), whole)


def test_outputs_belong_to_the_caller(server: RunningServer, inputs: Floats) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client:
            sessions = [await client.session("tiny") for _ in range(4)]
            outputs = await asyncio.gather(*(session.step(inputs[0]) for session in sessions))
            outputs[0][:] = 7.0
            assert not np.any(outputs[1] == 7.0)
            assert outputs[1].base is None

    asyncio.run(main())


def test_step_many_is_each_session_alone(client: Client, inputs: Floats, truth: Floats) -> None:
    sessions = [client.session("tiny") for _ in range(5)]
    for place, session in enumerate(sessions):
        session.chunk(inputs[: place + 1])
    outputs = client.step_many(sessions, inputs[1:6])
    assert outputs.shape == (5, 2)
    assert_close(outputs, truth[1:6])
    assert [session.step_index for session in sessions] == [2, 3, 4, 5, 6]


def test_step_many_loses_nobodys_outputs(client: Client, inputs: Floats, truth: Floats) -> None:
    sessions = [client.session("tiny") for _ in range(3)]
    client.delete_session(sessions[1].name)
    with pytest.raises(StepErrors) as caught:
        client.step_many(sessions, inputs[[0, 0, 0]])
    error = caught.value
    assert isinstance(error.errors[1], SessionEnded)
    assert list(error.errors) == [1]
    assert_close(error.outputs[[0, 2]], truth[[0, 0]])
    assert np.isnan(error.outputs[1]).all()
    assert error.split(SessionEnded)[1] is None

    outputs, errors = client.step_many(sessions, inputs[[1, 1, 1]], return_errors=True)
    assert list(errors) == [1]
    assert_close(outputs[2], truth[1])


def test_step_many_takes_sessions_of_several_models(client: Client) -> None:
    sessions = [client.session("letters"), client.session("letters/1")]
    assert client.step_many(sessions, [1, 2]).shape == (2, 11)
    mixed = [sessions[0], client.session("tiny")]
    with pytest.raises(StepErrors) as caught:
        client.step_many(mixed, [1, 2])
    assert isinstance(caught.value.errors[1], InputMismatch)
    with pytest.raises(InvalidField):
        client.step_many([sessions[0], sessions[0]], [1, 2])


def test_a_refused_input_moves_nothing(client: Client, inputs: Floats, truth: Floats) -> None:
    with client.session("tiny") as session:
        for bad, kind in (
            ([1.0, np.nan, 0.0], NonFiniteInput),
            ([1.0, 2.0], InputMismatch),
            (5, InputMismatch),
            ("a", InputMismatch),
        ):
            with pytest.raises(kind):
                session.step(bad)
        assert not session.unsettled
        assert_close(session.step(inputs[0]), truth[0])


def test_a_bad_item_does_not_touch_its_neighbours(
    server: RunningServer, inputs: Floats, truth: Floats
) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client:
            sessions = [await client.session("tiny") for _ in range(6)]
            bad = [inputs[0], [1.0, 2.0], [0.0, np.inf, 0.0], 3, inputs[0], inputs[0]]
            await client.delete_session(sessions[5].name)
            found = await asyncio.gather(
                *(session.step(x) for session, x in zip(sessions, bad, strict=True)),
                return_exceptions=True,
            )
            outputs = [y for y in found if isinstance(y, np.ndarray)]
            assert_close(outputs, truth[[0, 0]])
            kinds = [type(found[place]) for place in (1, 2, 3, 5)]
            assert kinds == [InputMismatch, NonFiniteInput, InputMismatch, SessionEnded]
            again = await asyncio.gather(*(session.step(inputs[0]) for session in sessions[1:4]))
            assert_close(again, truth[[0, 0, 0]])

    asyncio.run(main())


def test_threads_may_share_a_session(client: Client, inputs: Floats, truth: Floats) -> None:
    with client.session("tiny") as session:
        threads = [threading.Thread(target=session.step, args=(inputs[0],)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert session.step_index == 8
        session.reset()
        assert_close(session.step(inputs[0]), truth[0])


def test_steps_of_one_session_run_in_the_order_they_came(
    server: RunningServer, inputs: Floats, truth: Floats
) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client, client.session("tiny") as session:
            outputs = await asyncio.gather(*(session.step(x) for x in inputs))
            assert_close(outputs, truth)

    asyncio.run(main())
