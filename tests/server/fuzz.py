"""Messages that nobody sends by mistake: made from the descriptors, each field at its limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import grpc
import numpy as np
import torch
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from carousel import tensors
from carousel.model import load
from carousel.server.services import SERVICES
from carousel.v1 import inference_service_pb2 as pb
from tests.server.contract import Wire

# Drain ends the server, as it should.
METHODS = [m for s in SERVICES.values() for m in s.methods if m.name != "DrainServer"]
SECONDS = 20.0  # far above what any of these calls takes
WATCHES = {"WatchJob", "InspectSession", "Generate", "ReplaySession"}  # may go on and on
MANY = 70_000  # more than any column may have
WORDS = (
    "models/tiny",
    "models/tiny/versions/1",
    "models/both-ways",
    "models/explosive",
    "models/letters-too/aliases/stable",
    "sessions/live",
    "live",
    "datasets/nothing",
    "jobs/nothing/checkpoints/best",
    "../../etc/passwd",
    "/",
    "/" * 100_000,
    "a" * 100_000,
    "\0",
    "\U0001f40d" * 3000,
)
_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_ENUM: (-1, 2**31 - 1),
}
_FLOATS = [0.0, -0.0, 0.5, 1.0, -1.0, 3e38, float("nan"), float("inf")]
_DTYPES = ["<f4", "<f4", "<f8", "<f2", "<i4", "<i8"]
_LIES = [[2**31, 2**31], [1] * 1000, [2**32 - 1] * 8, [2**32 - 1] * 7 + [0], [0] * 8, [0], []]


class Maker:
    """Makes messages of any type; the same number makes the same messages."""

    def __init__(self, seed: int, handles: list[int]) -> None:
        self._random = Random(seed)
        self._handles = handles

    def requests(self, method: MethodDescriptor) -> list[Any]:
        """What a call of the method is made with: one message, or those of a stream."""
        count = self._random.randint(1, 3) if method.client_streaming else 1
        return [self.message(method.input_type) for _ in range(count)]

    def message(self, descriptor: Descriptor, depth: int = 0) -> Any:
        """Each of its fields is set or not."""
        if descriptor.full_name == "carousel.v1.Tensor":
            return self._tensor()
        message = message_factory.GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if self._random.random() < 0.6 and depth < 6:
                self._set(message, field, depth)
        return message

    def _set(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return  # in no message of a caller's
        if not field.is_repeated:
            value = self._value(field, depth)
            if field.message_type is None:
                setattr(message, field.name, value)
            else:
                getattr(message, field.name).CopyFrom(value)
        elif field.message_type is None and self._random.random() < 0.1:
            value = self._value(field, depth)
            small = not isinstance(value, str | bytes) or len(value) < 100
            getattr(message, field.name).extend([value] * (MANY if small else 3))
        else:
            count = self._random.randint(0, 3)
            getattr(message, field.name).extend([self._value(field, depth) for _ in range(count)])

    def _value(self, field: FieldDescriptor, depth: int) -> Any:
        choose = self._random.choice
        if field.message_type is not None:
            return self.message(field.message_type, depth + 1)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return choose([False, True])
        if field.type == FieldDescriptor.TYPE_STRING:
            return choose(WORDS)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return choose([b"", self._random.randbytes(32), bytes(100_000)])
        if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
            return choose(_FLOATS)
        low, high = _INTEGERS[field.type]
        near = [low, -1, 0, 1, 2, 3, 2**31 - 1, 2**32 - 1, 2**62, high]
        own = self._handles * 5 if "handle" in field.name else []
        return choose([number for number in near if low <= number <= high] + own)

    def _tensor(self) -> Any:
        """Of the right type and shape, or of another, or such whose shape is a lie."""
        choose = self._random.choice
        shape = [choose([0, 1, 2, 3, 8]) for _ in range(choose([1, 1, 2, 2, 2, 4]))]
        with np.errstate(all="ignore"):
            values = np.full(shape, np.nan_to_num(choose(_FLOATS))).astype(choose(_DTYPES))
        tensor = tensors.encode(values)
        if values.dtype.kind == "f" and values.size and choose([False, False, True]):
            values.flat[0] = choose([np.nan, np.inf])
            tensor = tensors.encode(values)
        if choose([False, False, True]):
            del tensor.shape[:]
            tensor.shape.extend(choose(_LIES))
        if choose([False] * 5 + [True]):
            tensor.data_type = choose([0, 99, -1])  # type: ignore[assignment]
        return tensor


def outcome(
    channel: grpc.Channel, method: MethodDescriptor, given: list[Any]
) -> grpc.RpcError | None:
    """How the call ends; None: well."""
    kind = f"{'stream' if method.client_streaming else 'unary'}_"
    kind += "stream" if method.server_streaming else "unary"
    call = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    seconds = 0.5 if method.name in WATCHES else SECONDS
    try:
        answer = call(iter(given) if method.client_streaming else given[0], timeout=seconds)
        if method.server_streaming:
            for _ in answer:
                pass
    except grpc.RpcError as failure:
        return failure
    return None


def is_wrong(method: MethodDescriptor, failure: grpc.RpcError | None) -> str:
    """Why a call must not end like this; empty: it may."""
    if failure is None:
        return ""
    assert isinstance(failure, grpc.Call)
    code, details = failure.code(), failure.details()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and method.name in WATCHES:
        return ""
    metadata: Any = failure.trailing_metadata()
    typed = "grpc-status-details-bin" in dict(metadata or ())
    bad = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}
    return "" if typed and code not in bad else f"{method.name}: {code} {details!r:.300}"


class Control:
    """A session beside all that, whose answers are those of the network alone."""

    def __init__(self, channel: grpc.Channel, store: Path) -> None:
        self._wire = Wire(channel)
        self._network = load(store / "letters" / "1")
        self._handle = self._wire.create("models/letters").handle
        self._state = self._network.initial_rows(1)
        self._tokens = self._all_tokens()
        self.steps = 0

    @staticmethod
    def _all_tokens() -> Iterator[int]:
        while True:
            yield from range(11)

    def step(self) -> None:
        token = next(self._tokens)
        outputs = self._wire.outputs([self._handle], [self.steps], np.array([token], np.int64))
        with torch.no_grad():
            y, self._state = self._network(torch.tensor([[token]]), self._state)
        np.testing.assert_allclose(outputs[0], y[0, -1].numpy(), rtol=1e-4, atol=1e-5)
        self.steps += 1


def revive(wire: Wire) -> list[int]:
    """What the messages speak of is there again; handles that are good."""
    from carousel.v1 import model_service_pb2 as models
    from carousel.v1 import session_service_pb2 as sessions

    wire.models.LoadModelVersion(models.LoadModelVersionRequest(name="models/tiny/versions/1"))
    try:
        session = wire.sessions.AttachSession(sessions.AttachSessionRequest(name="sessions/live"))
    except grpc.RpcError:
        session = wire.create(session_id="live")
    return [session.handle, wire.create().handle]


__all__ = ["METHODS", "Control", "Maker", "is_wrong", "outcome", "pb", "revive"]
