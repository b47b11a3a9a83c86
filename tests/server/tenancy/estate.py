"""What one tenant has on a server, and calls of any method as any tenant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc import status_pb2

from carousel import tensors
from carousel.server.services import SERVICES
from carousel.v1 import inference_service_pb2 as inference
from carousel.v1 import model_service_pb2 as models
from carousel.v1 import session_pb2, training_pb2
from carousel.v1 import session_service_pb2 as sessions
from carousel.v1 import training_service_pb2 as training
from tests.processes import PATIENCE
from tests.server.training.wire import FOX, pieces, recipe

METHODS: dict[str, MethodDescriptor] = {
    method.name: method for service in SERVICES.values() for method in service.methods
}
X = tensors.encode(np.ones((1, 3), np.float32))


class Caller:
    """Calls methods by their names, as a tenant."""

    def __init__(self, channel: grpc.Channel, tenant: str) -> None:
        self._channel = channel
        self._metadata = (("x-carousel-tenant", tenant),) if tenant else ()
        self.tenant = tenant

    def call(self, name: str, *requests: Message) -> list[Any]:
        """All responses. Raises grpc.RpcError."""
        method = METHODS[name]
        kind = ("unary" if not method.client_streaming else "stream") + (
            "_unary" if not method.server_streaming else "_stream"
        )
        response = message_factory.GetMessageClass(method.output_type)
        stub = getattr(self._channel, kind)(
            f"/{method.containing_service.full_name}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        sent: Any = iter(requests) if method.client_streaming else requests[0]
        answer: Any = stub(sent, metadata=self._metadata, timeout=PATIENCE)
        return list(answer) if method.server_streaming else [answer]

    def outcome(self, name: str, requests: Iterable[Message], *replaced: str) -> Outcome:
        """How a call ends, with what its request names replaced."""
        try:
            found: tuple[str, ...] = tuple(
                str(_without_moments(MessageToDict(one))) for one in self.call(name, *requests)
            )
            code = "OK"
        except grpc.RpcError as error:
            failed: Any = error
            trailers = failed.trailing_metadata()
            raw = dict(trailers or ()).get("grpc-status-details-bin", b"")
            code, found = failed.code().name, (str(status_pb2.Status.FromString(raw)),)
        for text in replaced:
            found = tuple(one.replace(text, "THIS") for one in found)
        return Outcome(code, found)


@dataclass(frozen=True)
class Outcome:
    code: str
    said: tuple[str, ...]


def _without_moments(value: Any) -> Any:
    """What differs between two calls that are the same."""
    if isinstance(value, list):
        return [_without_moments(one) for one in value]
    if isinstance(value, dict):
        return {
            key: _without_moments(one)
            for key, one in value.items()
            if not key.endswith("Time") and key not in ("handle", "checksum")
        }
    return value


class Estate:
    """A tenant's session, generation, model, dataset and job, all of them called `mine`."""

    def __init__(self, channel: grpc.Channel, tenant: str) -> None:
        self.owner = owner = Caller(channel, tenant)
        [self.session] = owner.call(
            "CreateSession",
            sessions.CreateSessionRequest(
                model="models/tiny", session_id="mine", rewind_depth=2, audit=True
            ),
        )
        [self.letters] = owner.call(
            "CreateSession", sessions.CreateSessionRequest(model="models/letters")
        )
        owner.call("Step", step(self.session.handle))
        owner.call("UploadModelVersion", *upload(owner, "mine"))
        owner.call("LoadModelVersion", models.LoadModelVersionRequest(name="models/mine"))
        alias = models.SetModelAliasRequest(name="models/mine", alias="stable", version=1)
        owner.call("SetModelAlias", alias)
        owner.call("UploadDataset", *pieces(FOX.encode(), name="fox.txt", id="mine"))
        owner.call("CreateJob", job("mine", dataset="mine"))

    def inventory(self) -> list[Any]:
        """Everything that there is to know of it."""
        call = self.owner.call
        [sealed] = call("ExportSession", sessions.ExportSessionRequest(name="sessions/mine"))
        found = [
            call("GetSession", sessions.GetSessionRequest(name="sessions/mine"))[0],
            call("ListSessions", sessions.ListSessionsRequest())[0],
            session_pb2.Snapshot(tensors=sealed.snapshot.tensors),
            call("GetModel", models.GetModelRequest(name="models/mine"))[0],
            call("GetModelVersion", models.GetModelVersionRequest(name="models/mine/versions/1"))[
                0
            ],
            call("GetHealthPolicy", models.GetHealthPolicyRequest(name="models/mine"))[0],
            call("GetDataset", training.GetDatasetRequest(name="datasets/mine"))[0],
            call("GetJob", training.GetJobRequest(name="jobs/mine"))[0],
        ]
        return [one.SerializeToString(deterministic=True) for one in found]


def step(handle: int, index: int = 0) -> inference.StepRequest:
    return inference.StepRequest(handles=[handle], step_indexes=[index], inputs=X)


def job(id: str, *, dataset: str, model: str = "") -> training.CreateJobRequest:
    promotion = training_pb2.Promotion(model=model)
    wanted = training_pb2.Job(dataset=f"datasets/{dataset}", recipe=recipe(), promotion=promotion)
    return training.CreateJobRequest(job_id=id, job=wanted)


def upload(reader: Caller, model: str) -> Iterator[models.UploadModelVersionRequest]:
    """The shared model `tiny`, once more."""
    tiny = models.ExportModelVersionRequest(name="models/tiny/versions/1")
    first, *rest = reader.call("ExportModelVersion", tiny)
    first.header.parent, first.header.version = f"models/{model}", 0
    yield models.UploadModelVersionRequest(header=first.header)
    for piece in rest:
        yield models.UploadModelVersionRequest(data=piece.data)
