"""Refusals of whole messages: what they say, and that they cost no more for more items."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from carousel.errors import QueueFull, SessionNotFound
from carousel.server import refused
from carousel.server.item_errors import item_error, refuse, refuse_runs
from carousel.server.refused import ENOUGH, Refused
from carousel.server.services.step_answers import Stream
from carousel.v1 import inference_service_pb2 as pb

FULL = QueueFull("8 items of one tenant may wait", field="handles", retry_after=2.0)
OTHER = QueueFull("16 items may wait", field="handles", retry_after=2.0)


def request(first: int, count: int) -> pb.StepRequest:
    return pb.StepRequest(handles=range(first, first + count), step_indexes=range(count))


def add(refused: Refused, message: pb.StepRequest, error: QueueFull) -> None:
    refused.add(message.handles, message.step_indexes, error)


@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 20_000])
@pytest.mark.parametrize("error", [FULL, SessionNotFound("no session")])
def test_a_refusal_says_the_same_as_errors_made_one_by_one(
    error: QueueFull | SessionNotFound, count: int
) -> None:
    asked = request(7, count)
    assert refuse(asked, error) == pb.StepResponse(
        handles=asked.handles,
        step_indexes=asked.step_indexes,
        lengths=[0] * count,
        errors=[item_error(item, error) for item in range(count)],
    )


def test_refusals_for_several_reasons_say_the_same_as_errors_made_one_by_one() -> None:
    unknown, gone = SessionNotFound("no session"), SessionNotFound("no longer")
    runs = [(unknown, 126), (gone, 1), (unknown, 0), (gone, 3), (unknown, 40), (FULL, 20_000)]
    errors = [error for error, count in runs for _ in range(count)]
    asked = request(7, len(errors))
    found = refuse_runs(asked, runs)
    assert list(found.errors) == [item_error(item, error) for item, error in enumerate(errors)]
    assert found.handles == asked.handles
    assert found.step_indexes == asked.step_indexes


def test_what_is_refused_in_a_little_while_is_told_in_one_message() -> None:
    async def main() -> list[pb.StepResponse]:
        told: list[pb.StepResponse] = []
        refused = Refused(told.append)
        for first in (10, 20, 30):
            add(refused, request(first, 2), FULL)
        add(refused, request(40, 1), OTHER)
        refused.tell()
        refused.tell()
        return told

    together, alone = asyncio.run(main())
    assert list(together.handles) == [10, 11, 20, 21, 30, 31]
    assert list(together.step_indexes) == [0, 1] * 3
    assert [error.item for error in together.errors] == list(range(6))
    assert {error.message for error in together.errors} == {FULL.message}
    assert [error.message for error in alone.errors] == [OTHER.message]


def test_what_is_refused_is_told_without_being_asked() -> None:
    async def main() -> int:
        told: asyncio.Queue[pb.StepResponse] = asyncio.Queue()
        add(Refused(told.put_nowait), request(1, 2), QueueFull("full", retry_after=0.01))
        return len((await told.get()).handles)

    assert asyncio.run(main()) == 2


class Line:
    """A stream whose caller sends messages of 64 items without end."""

    async def read(self) -> pb.StreamStepsRequest:
        await asyncio.sleep(0)
        return pb.StreamStepsRequest(step=request(1, 64))


def test_a_stream_of_which_enough_is_refused_is_read_no_further_until_it_was_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refused, "LONGEST", 3600.0)

    async def main() -> list[int]:
        stream, full, items = Stream("", "", None), QueueFull("full", retry_after=1e6), 0

        def refuse_one(message: pb.StepRequest) -> None:
            nonlocal items
            items += len(message.handles)
            stream.refuse(message, full)

        line: Any = Line()
        reader = asyncio.create_task(stream.read(line, refuse_one))
        counts = []
        for _ in range(3):
            for _ in range(100):  # iterations of the event loop
                await asyncio.sleep(0)
            counts.append(items)
            stream.refused.tell()
        reader.cancel()
        return counts

    assert asyncio.run(main()) == [ENOUGH, 2 * ENOUGH, 3 * ENOUGH]


def calls(function: Callable[[], Any]) -> int:
    """How many functions of Python and C it calls."""
    count = 0

    def look(_frame: FrameType, event: str, _what: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(look)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def test_nothing_of_a_refusal_is_done_item_by_item() -> None:
    few, many = request(1, 2), request(1, 120)
    refuse(many, FULL)  # what is prepared once
    assert calls(lambda: refuse(many, FULL)) == calls(lambda: refuse(few, FULL))

    async def main() -> tuple[int, int]:
        refused = Refused(lambda response: None)
        add(refused, few, FULL)
        return calls(lambda: add(refused, many, FULL)), calls(lambda: add(refused, few, FULL))

    cost_of_many, cost_of_few = asyncio.run(main())
    assert cost_of_many == cost_of_few
