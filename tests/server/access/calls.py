"""Every RPC of every service, from the descriptors, and how to call one with bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from carousel import tensors
from carousel.server.services import SERVICES
from tests.processes import PATIENCE

GUESTS: tuple[Any, ...] = (
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    channelz_pb2.DESCRIPTOR.services_by_name["Channelz"],
)

Metadata = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Rpc:
    """One RPC, as the descriptors have it."""

    method: MethodDescriptor

    @property
    def name(self) -> str:
        return f"{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("carousel.")

    @property
    def kind(self) -> str:
        ways = ("unary", "stream")
        return f"{ways[self.method.client_streaming]}_{ways[self.method.server_streaming]}"

    def __repr__(self) -> str:
        return self.name


_ALL: list[ServiceDescriptor] = [*SERVICES.values(), *GUESTS]
RPCS = [Rpc(method) for service in _ALL for method in service.methods]


@dataclass(frozen=True)
class Outcome:
    """How a call ended: all that its caller can see, but for the id of the request."""

    code: grpc.StatusCode
    text: str
    trailers: tuple[tuple[str, str | bytes], ...] = ()


def call(channel: grpc.Channel, rpc: Rpc, request: bytes, metadata: Metadata = ()) -> Outcome:
    """Make a call to its end, or to its first answer."""
    make: Any = getattr(channel, rpc.kind)
    function = make(f"/{rpc.name}", request_serializer=None, response_deserializer=None)
    given = iter([request]) if rpc.method.client_streaming else request
    try:
        answer = function(given, metadata=tuple(metadata), timeout=PATIENCE)
        if rpc.method.server_streaming:
            next(answer, None)
            answer.cancel()
    except grpc.RpcError as error:
        failed: Any = error
        kept = [pair for pair in failed.trailing_metadata() or () if pair[0] != "x-request-id"]
        return Outcome(failed.code(), failed.details(), tuple(map(tuple, kept)))
    return Outcome(grpc.StatusCode.OK, "")


def potent(rpc: Rpc, *, handle: int, exists: bool) -> bytes:
    """A request that would do something, were it let in; or one about what does not exist."""
    message: Any = message_factory.GetMessageClass(rpc.method.input_type)()
    name = "victim" if exists else "nobody"
    model = "models/tiny" if exists else "models/nobody"
    for field in rpc.method.input_type.fields:
        value = {
            "name": _name(rpc, name, model),
            "parent": model if "Model" in rpc.method.name else f"jobs/{name}",
            "model": model,
            "session": f"sessions/{name}",
            "session_id": f"new-{name}",
            "alias": "attacked",
            "version": 1,
        }.get(field.name)
        if value is not None:
            setattr(message, field.name, value)
    steps = {"handles": [handle if exists else handle ^ 1], "step_indexes": [0]}
    if rpc.method.name in ("Step", "StreamSteps"):
        step = message if rpc.method.name == "Step" else message.step
        step.MergeFrom(type(step)(**steps, inputs=tensors.encode(_zeros())))
    sent: Message = message
    return sent.SerializeToString()


def _name(rpc: Rpc, name: str, model: str) -> str:
    if rpc.method.containing_service.name == "SessionService":
        return f"sessions/{name}"
    if rpc.method.containing_service.name == "ModelService":
        return f"{model}/versions/1" if "Version" in rpc.method.name else model
    return f"datasets/{name}" if "Dataset" in rpc.method.name else f"jobs/{name}"


def _zeros() -> Any:
    import numpy as np

    return np.zeros((1, 3), np.float32)
