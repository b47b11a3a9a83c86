"""One step: the message that plain clients send most, read from its bytes and answered in bytes.

A message of one session and one step has always the same few fields. To look for these and nothing
else costs a fraction of a message object, which is filled and read field by field. Whatever looks
different is left to protobuf.
"""

from __future__ import annotations

import re
from functools import lru_cache

from carousel.server.varint import varint
from carousel.server.work import NEVER, Answer
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import tensor_pb2

# A StepRequest up to the values of its inputs: handle, index, durable index, then the tensor. What
# are numbers here and what are lengths is the same in all messages that protobuf would read so.
USUAL = re.compile(
    rb"\x0a\x08(.{8})"
    rb"\x12(.)([\x80-\xff]{0,8}[\x00-\x7f])"
    rb"(?:\x22(.)([\x80-\xff]{0,8}[\x00-\x7f]))?"
    rb"\x2a([\x80-\xff]{0,4}[\x00-\x7f])"
    rb"(\x08[\x00-\x7f]\x12(.)((?:[\x80-\xff]{0,4}[\x00-\x7f]){1,2})\x1a([\x80-\xff]{0,4}[\x00-\x7f]))",
    re.DOTALL,
)
# The only field of a stream's message, up to what is in it.
STREAMED = re.compile(rb"\x0a([\x80-\xff]?[\x00-\x7f])", re.DOTALL)


class OneStep:
    """Has what it has in common with a StepRequest under the same names.

    `inputs_head` is all of the inputs' tensor that stands before its `values`.
    """

    __slots__ = ("durable_indexes", "handles", "inputs_head", "message", "step_indexes", "values")

    def __init__(
        self,
        message: bytes,
        handle: int,
        index: int,
        durables: list[int],
        head: bytes,
        values: bytes,
    ) -> None:
        self.message = message
        self.handles = [handle]
        self.step_indexes = [index]
        self.durable_indexes = durables
        self.inputs_head = head
        self.values = values

    @property
    def step(self) -> OneStep:
        """As of the message of a stream."""
        return self

    def parsed(self) -> pb.StepRequest:
        return pb.StepRequest.FromString(self.message)


def read(message: bytes, at: int = 0) -> OneStep | None:
    """A StepRequest that begins there, if it is of one step and has nothing unusual."""
    found = USUAL.match(message, at)
    if found is None:
        return None
    handle, size, index, durable_size, durable, rest, head, dimensions, shape, values = (
        found.groups()
    )
    begin = found.end()
    if (
        size[0] != len(index)
        or dimensions[0] != len(shape)
        or _number(values) != len(message) - begin
        or _number(rest) != len(message) - begin + len(head)
    ):
        return None
    durables = []
    if durable is not None:
        if durable_size[0] != len(durable):
            return None
        durables = [_number(durable)]
    number = int.from_bytes(handle, "little")
    return OneStep(message[at:], number, _number(index), durables, head, message[begin:])


def read_streamed(message: bytes) -> OneStep | None:
    """The same of a StreamStepsRequest."""
    found = STREAMED.match(message)
    if found is None or _number(found[1]) != len(message) - found.end():
        return None
    return read(message, found.end())


def _number(written: bytes) -> int:
    number = 0
    for byte in reversed(written):
        number = number << 7 | byte & 127
    return number


@lru_cache(256)
def tensor_head(data_type: int, shape: tuple[int, ...], size: int) -> bytes:
    """All of a tensor that stands before its values, of so many bytes."""
    dimensions = b"".join([_varint(length) for length in shape])
    return b"\x08%c\x12%c" % (data_type, len(dimensions)) + dimensions + b"\x1a" + _varint(size)


_varint = lru_cache(64)(varint)  # of lengths and of seconds, which are mostly the same


def write(answer: Answer) -> bytes:
    """The StepResponse of an answer to one step that went well."""
    work, values, item = answer.work, answer.outputs.tobytes(), int(answer.items[0])
    index = varint(work.step_indexes[item])
    head = tensor_head(tensor_pb2.DATA_TYPE_FLOAT32, answer.outputs.shape, len(values))
    parts = [
        b"\x0a\x08",
        work.handles[item].to_bytes(8, "little"),
        b"\x12%c" % len(index),
        index,
        b"" if answer.durable is None else _durable(int(answer.durable[0])),
        b"\x2a",
        _varint(len(head) + len(values)),
        head,
        values,
        b"" if answer.expire_time == NEVER else _time(answer.expire_time),
    ]
    return b"".join(parts)


def _durable(index: int) -> bytes:
    number = varint(index)
    return b"\x22%c%b" % (len(number), number) if index else b""


def _time(seconds: float) -> bytes:
    """The field of expire_time, a Timestamp."""
    whole, nanos = int(seconds), int(seconds % 1 * 1e9)
    time = b"\x08" + _varint(whole) if whole else b""
    if nanos:
        time += b"\x10" + varint(nanos)
    return b"\x3a%c%b" % (len(time), time)


def streamed(response: bytes) -> bytes:
    """A StreamStepsResponse with this StepResponse."""
    return b"\x0a" + _varint(len(response)) + response
