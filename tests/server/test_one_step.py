"""One step: what is read and written by hand is what protobuf reads and writes."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from carousel import tensors
from carousel.server import one_step, steps
from carousel.server.work import NEVER, Answer, Work
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import tensor_pb2

NUMBERS = [0, 1, 127, 128, 300, 2**31, 2**32 - 1, 2**40, 2**63 - 1]
ROUNDS = 3_000


def usual(random: Random, *, width: int = 3) -> pb.StepRequest:
    """A message of one step, as plain clients send them."""
    inputs = np.array([[random.random() for _ in range(width)]], np.float32)
    durables = [random.choice(NUMBERS)] if random.random() < 0.5 else []
    return pb.StepRequest(
        handles=[random.getrandbits(64)],
        step_indexes=[random.choice(NUMBERS)],
        durable_indexes=durables,
        inputs=tensors.encode(inputs),
    )


def damaged(random: Random, message: bytes) -> bytes:
    """A few bytes changed, left out or put in."""
    data = bytearray(message)
    for _ in range(random.randint(1, 3)):
        place = random.randrange(min(len(data), 40))
        match random.randrange(3):
            case 0:
                data[place] = random.choice((0, 1, 8, 10, 18, 26, 34, 42, 127, 128, 255))
            case 1:
                del data[place]
            case _:
                data.insert(place, random.randrange(256))
    return bytes(data)


def same(found: one_step.OneStep, expected: pb.StepRequest) -> None:
    assert found.handles == list(expected.handles)
    assert found.step_indexes == list(expected.step_indexes)
    assert found.durable_indexes == list(expected.durable_indexes)
    assert found.values == expected.inputs.data
    assert not expected.lengths
    assert not expected.output_mode
    assert not expected.priority
    if found.inputs_head == one_step.tensor_head(1, (1, 3), 12):
        assert expected.inputs.data_type == tensor_pb2.DATA_TYPE_FLOAT32
        assert list(expected.inputs.shape) == [1, 3]
        assert len(found.values) == 12
    assert found.parsed() == expected


@pytest.mark.parametrize("width", [1, 3, 26, 64, 128, 1000])
def test_the_usual_message_is_read(width: int) -> None:
    message = usual(Random(width), width=width)
    found = one_step.read(message.SerializeToString())
    assert found is not None
    same(found, message)
    streamed = pb.StreamStepsRequest(step=message).SerializeToString()
    again = one_step.read_streamed(streamed)
    assert again is not None
    same(again, message)
    size = 4 * width
    assert found.inputs_head == one_step.tensor_head(1, (1, width), size)


def test_tokens_are_read() -> None:
    inputs = tensors.encode(np.array([7]))
    message = pb.StepRequest(handles=[1], step_indexes=[2], inputs=inputs)
    found = one_step.read(message.SerializeToString())
    assert found is not None
    same(found, message)


@pytest.mark.parametrize(
    "more",
    [
        {"lengths": [1]},
        {"output_mode": pb.OUTPUT_MODE_LAST},
        {"priority": pb.PRIORITY_BULK},
        {"handles": [1, 2]},
        {"step_indexes": [1, 2]},
        {"durable_indexes": [1, 2]},
    ],
)
def test_whatever_has_more_is_left_to_protobuf(more: dict[str, list[int]]) -> None:
    message = usual(Random(1))
    for name, value in more.items():
        message.ClearField(name)  # type: ignore[arg-type]
        message.MergeFrom(pb.StepRequest(**{name: value}))  # type: ignore[arg-type]
    assert one_step.read(message.SerializeToString()) is None


def test_whatever_is_read_by_hand_protobuf_reads_alike() -> None:
    """Damaged messages are not read, or read as protobuf reads them."""
    random, read = Random(7), 0
    for _ in range(ROUNDS):
        message = damaged(random, usual(random).SerializeToString())
        found = one_step.read(message)
        if found is not None:
            same(found, pb.StepRequest.FromString(message))
            read += 1
        wrapped = damaged(random, pb.StreamStepsRequest(step=usual(random)).SerializeToString())
        streamed = one_step.read_streamed(wrapped)
        if streamed is not None:
            same(streamed, pb.StreamStepsRequest.FromString(wrapped).step)
            read += 1
    assert read > ROUNDS / 20, "some damage does no harm"


def test_whatever_one_byte_becomes_is_read_as_protobuf_reads_it() -> None:
    step = usual(Random(5))
    alone = step.SerializeToString()
    wrapped = pb.StreamStepsRequest(step=step).SerializeToString()
    for place in range(len(wrapped)):
        for value in range(256):
            message = wrapped[:place] + bytes((value,)) + wrapped[place + 1 :]
            streamed = one_step.read_streamed(message)
            if streamed is not None:
                same(streamed, pb.StreamStepsRequest.FromString(message).step)
            message = alone[:place] + bytes((value,)) + alone[place + 1 :]
            found = one_step.read(message)
            if found is not None:
                same(found, pb.StepRequest.FromString(message))


def test_answers_are_written_as_protobuf_writes_them() -> None:
    random = Random(3)
    times = [NEVER, 0.5, 1.0, 1_790_000_000.0, 1_790_000_000.123456, 4e9 + 0.999]
    for _ in range(ROUNDS // 3):
        count = random.randint(1, 3)
        handles = [random.getrandbits(64) for _ in range(count)]
        indexes = [random.choice(NUMBERS) for _ in range(count)]
        outputs = np.array([[random.random()] * random.choice((1, 2, 64, 300))], np.float32)
        durable = random.choice([None, np.array([random.choice(NUMBERS)])])
        work = Work(handles, indexes, np.zeros((count, 3), np.float32), lambda answer: None)
        item = np.array([random.randrange(count)])
        expire = random.choice(times)
        answer = Answer(work, item, None, outputs, (), expire, durable=durable)
        message = steps._encode_whole(answer)
        assert steps.encode([answer]) == message.SerializeToString(deterministic=True)
        streamed = one_step.streamed(message.SerializeToString())
        assert pb.StreamStepsResponse.FromString(streamed).step == message
