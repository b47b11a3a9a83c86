"""Records: an answer that went through one becomes the same message."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from carousel.errors import CarouselError, QueueFull, StepConflict
from carousel.server import steps
from carousel.server.frontends import records
from carousel.server.health_policy import HealthRule
from carousel.server.notices import Notice
from carousel.server.work import NEVER, Answer, Work
from carousel.v1 import inference_service_pb2 as pb

CONFLICT = StepConflict("step 3 is not next", metadata={"expected_step": "2"})
FULL = QueueFull("too many wait", field="handles", retry_after=0.25)
ALERT = Notice(HealthRule("state_norm", 3.5, "alert"), float("inf"), 7, 2)
CHANCE = np.random.default_rng(5)


def outputs(rows: int, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return CHANCE.standard_normal((rows, width)).astype(np.float32)


def work(count: int, mode: int) -> Work:
    handles = CHANCE.integers(1, 2**63, count).astype(np.uint64) * np.uint64(2)
    inputs = np.zeros((count, 3), np.float32)
    return Work(handles.tolist(), list(range(count)), inputs, lambda answer: None, mode=mode)


def whole(mode: int) -> Answer:
    return Answer(work(4, mode), np.arange(4), None, outputs(4, 2), expire_time=1e9 + 0.25)


def some(mode: int) -> Answer:
    """Chunks, durable indexes, errors that items share, and a notice."""
    lengths, durable = np.array([2, 3]), np.array([0, 2**40])
    errors: tuple[tuple[int, CarouselError], ...] = ((0, CONFLICT), (2, FULL), (4, FULL))
    return Answer(
        work(5, mode),
        np.array([3, 1]),
        lengths,
        outputs(5, 3),
        errors,
        NEVER,
        durable=durable,
        notices=((1, ALERT),),
    )


def nothing(mode: int) -> Answer:
    return Answer(work(1, mode), np.arange(0), None, outputs(0, 7), ((0, CONFLICT),))


@pytest.mark.parametrize("mode", pb.OutputMode.values())
@pytest.mark.parametrize("make", [whole, some, nothing])
def test_an_answer_becomes_the_same_message_at_the_other_end(
    make: Callable[[int], Answer], mode: int
) -> None:
    given = make(mode)
    record = records.answer(2**60, given)
    assert records.call_of(record) == 2**60
    read = records.read_answer(record, given.work)
    assert steps.encode([read], in_order=True) == steps.encode([given], in_order=True)


def test_a_refusal_is_the_same_error_at_the_other_end() -> None:
    record = records.refusal(records.REFUSED, 9, FULL)
    number, body = records.read_named(record)
    read = records.read_refusal(body)
    assert (number, type(read), read.message) == (9, QueueFull, FULL.message)
    assert read.retry_after == FULL.retry_after
