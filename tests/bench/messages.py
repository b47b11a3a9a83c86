"""Step messages written by hand: only the step index differs from one to the next."""

from __future__ import annotations

from carousel.server.varint import varint
from carousel.v1 import inference_service_pb2, session_pb2, session_service_pb2
from tests.bench.models import INPUT, Floats

INFERENCE = inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
SESSIONS = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name

Session = session_pb2.Session


def field(number: int, payload: bytes) -> bytes:
    """A field of bytes, a message, or packed numbers."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def features(values: Floats) -> bytes:
    """A Tensor of features [n, D], as field 5 of a StepRequest."""
    shape = field(2, varint(len(values)) + varint(INPUT))
    return field(5, b"\x08\x01" + shape + field(3, values.tobytes()))


def handles(numbers: list[int]) -> bytes:
    return field(1, b"".join([number.to_bytes(8, "little") for number in numbers]))


def kind(count: int, length: int, *, bulk: bool) -> bytes:
    """The lengths of items and their priority, where they are not what is usual."""
    lengths = field(3, varint(length) * count) if length > 1 else b""
    return lengths + (varint(7 << 3) + varint(2) if bulk else b"")


def indexes(index: int, count: int) -> bytes:
    return field(2, varint(index) * count)
