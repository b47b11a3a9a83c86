"""What tests of the bare contract say often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.rpc import status_pb2

from carousel import errors, tensors
from carousel.v1 import (
    inference_service_pb2,
    inference_service_pb2_grpc,
    model_service_pb2_grpc,
    session_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
)
from tests.processes import PATIENCE

Floats = npt.NDArray[np.float32]


class Wire:
    """Stubs of a channel, and the requests that tests make most."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.sessions = session_service_pb2_grpc.SessionServiceStub(channel)
        self.inference = inference_service_pb2_grpc.InferenceServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)

    def create(self, model: str = "models/tiny", **fields: object) -> session_pb2.Session:
        request = session_service_pb2.CreateSessionRequest(model=model, **fields)  # type: ignore[arg-type]
        return self.sessions.CreateSession(request)

    def create_for(self, tenant: str, model: str = "models/tiny") -> session_pb2.Session:
        request = session_service_pb2.CreateSessionRequest(model=model)
        return self.sessions.CreateSession(request, metadata=(("x-carousel-tenant", tenant),))

    def step(
        self,
        handles: Sequence[int],
        indexes: Sequence[int],
        inputs: npt.NDArray[np.generic],
        lengths: Sequence[int] = (),
        mode: int = 0,
    ) -> inference_service_pb2.StepResponse:
        return self.inference.Step(
            inference_service_pb2.StepRequest(
                handles=handles,
                step_indexes=indexes,
                lengths=lengths,
                inputs=tensors.encode(inputs),
                output_mode=mode,  # type: ignore[arg-type]
            ),
            timeout=PATIENCE,
        )

    def outputs(self, *args: object, **fields: object) -> Floats:
        """Step and expect no error: [rows, O]."""
        response = self.step(*args, **fields)  # type: ignore[arg-type]
        assert not response.errors, response.errors
        return tensors.decode(response.outputs)


def error_of(failure: grpc.RpcError) -> errors.CarouselError:
    """The catalogue's error in a failed call."""
    assert isinstance(failure, grpc.Call)
    metadata: Any = failure.trailing_metadata()
    details = dict(metadata or ()).get("grpc-status-details-bin")
    assert isinstance(details, bytes), failure
    return errors.from_status(status_pb2.Status.FromString(details))
