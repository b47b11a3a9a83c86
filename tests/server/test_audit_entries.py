"""What is handed over turn by turn comes into each log in order, and nothing is lost on the way."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from carousel.server.audit.entry import END, STATE, STEPS, Entry, encode, read
from carousel.server.audit.handed import Event, Handed, Placed, Turn, by_log
from carousel.server.audit.log import Log

LOGS = [Log(number, f"s{number}", "0" * 16, durable=False) for number in range(1, 5)]

# A turn of sessions of one of two models, each with so many steps; or an event of one session.
turns = st.sampled_from([0, 2]).flatmap(
    lambda first: st.dictionaries(st.integers(first, first + 1), st.integers(1, 3), min_size=1)
)
histories = st.lists(st.one_of(st.tuples(turns, st.booleans()), st.integers(0, 3)), max_size=12)


def turn(riders: dict[int, int], at: list[int], slices: bool) -> Turn:
    """Riders take their next steps; every second one's state is due; something sets the states of
    those that take several behind the first."""
    numbers = np.array([LOGS[one].number for one in riders])
    lengths = np.array([riders[one] if slices else 1 for one in riders])
    first = np.array([at[one] for one in riders])
    longest = int(lengths.max())
    steps = first[:, None] + np.arange(longest)  # [B, T]
    x = (1000 * numbers[:, None] + steps).astype(np.float32)
    inputs = np.repeat(x[..., None], 3, -1)
    outputs = np.repeat(-x[..., None], 4 if 2 in riders or 3 in riders else 2, -1)
    due = np.arange(0, len(riders), 2)
    adjusted = [
        (number, int(at + 1), np.array([1000 * number + at + 1], np.float32))
        for number, at, length in zip(numbers.tolist(), first, lengths, strict=True)
        if slices and length > 1
    ]
    states = (1000 * numbers + first + lengths)[due, None].astype(np.float32)
    return Turn(
        shape=(3, outputs.shape[-1], False),
        numbers=numbers,
        first=first,
        lengths=lengths if slices else None,
        inputs=inputs if slices else inputs[:, 0],
        outputs=outputs if slices else outputs[:, 0],
        time=1.0,
        due=due,
        states=states,
        adjusted=adjusted,
    )


@given(histories)
def test_every_log_gets_its_steps_states_and_events_in_order(
    history: list[tuple[dict[int, int], bool] | int],
) -> None:
    items: list[Handed] = []
    at = [0] * len(LOGS)
    truth: dict[int, list[tuple[str, int]]] = {}
    for what in history:
        if isinstance(what, int):
            log = LOGS[what]
            at[what] = 0  # as a reset does
            items.append(Event(log, entry=Entry(END, 0, 2.0)))
            truth.setdefault(log.number, []).append(("event", 0))
            continue
        riders, slices = what
        items.append(turn(riders, at, slices))
        for place, one in enumerate(riders):
            mine = truth.setdefault(LOGS[one].number, [])
            for place_in_slice in range(riders[one] if slices else 1):
                mine.append(("step", at[one]))
                at[one] += 1
                if slices and riders[one] > 1 and not place_in_slice:
                    mine.append(("state", at[one]))
            if place % 2 == 0:
                mine.append(("state", at[one]))
    found = {number: list(told(number, parts)) for number, parts in by_log(items).items()}
    assert found == truth


def told(number: int, parts: list[Placed]):  # type: ignore[no-untyped-def]
    for _, part in parts:
        if isinstance(part, Event):
            yield "event", 0
        elif part.kind == STATE:
            assert np.frombuffer(part.payload, "<f4").tolist() == [1000 * number + part.step_index]
            yield "state", part.step_index
        else:
            values = np.frombuffer(part.payload, "<f4").tolist()
            steps = range(part.step_index, part.step_index + part.steps)
            fed = [float(1000 * number + step) for step in steps for _ in range(3)]
            assert values[: len(fed)] == fed
            width = (len(values) - len(fed)) // part.steps
            assert values[len(fed) :] == [-value for value in fed[::3] for _ in range(width)]
            yield from (("step", step) for step in steps)


@given(st.lists(st.tuples(st.binary(max_size=4096), st.integers(0, 2**40), st.integers(0, 99))))
def test_entries_come_back_as_they_were_written(
    given: list[tuple[bytes, int, int]],
) -> None:
    data, chain = b"", bytes(32)
    entries = [Entry(STEPS, index, float(steps), body, steps) for body, index, steps in given]
    for entry in entries:
        made, chain = encode(entry, chain)
        data += made
    assert [placed.entry for placed in read(BytesIO(data))] == entries
