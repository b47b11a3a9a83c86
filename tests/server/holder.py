"""A caller that keeps its states itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from carousel import tensors
from carousel.v1 import inference_service_pb2 as pb
from tests.server.contract import Floats, Wire

RNG = np.random.default_rng(0)


def features(*shape: int) -> Floats:
    return RNG.standard_normal(shape).astype(np.float32)


class Holder:
    """Asks a server for steps of states."""

    def __init__(self, wire: Wire, model: str = "models/tiny") -> None:
        self.wire, self.model = wire, model

    def __call__(
        self,
        states: Sequence[bytes],
        inputs: npt.NDArray[np.generic],
        lengths: Sequence[int] = (),
        mode: int = 0,
        model: str = "",
    ) -> pb.StepStatesResponse:
        return self.wire.inference.StepStates(self.request(states, inputs, lengths, mode, model))

    def request(
        self,
        states: Sequence[bytes],
        inputs: npt.NDArray[np.generic],
        lengths: Sequence[int] = (),
        mode: int = 0,
        model: str = "",
    ) -> pb.StepStatesRequest:
        return pb.StepStatesRequest(
            model=model or self.model,
            states=states,
            lengths=lengths,
            inputs=tensors.encode(inputs),
            output_mode=mode,  # type: ignore[arg-type]
        )

    def reasons(self, *args: object, **fields: object) -> dict[int, str]:
        response = self(*args, **fields)  # type: ignore[arg-type]
        assert [bool(state) for state in response.states] == [
            item not in {error.item for error in response.errors}
            for item in range(len(response.states))
        ]
        return {error.item: error.reason for error in response.errors}


def outputs(response: pb.StepStatesResponse) -> Floats:
    assert not response.errors, response.errors
    rows: Floats = tensors.decode(response.outputs)
    return rows
