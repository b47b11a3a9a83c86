"""The calls of InferenceService that answer with one message, and step_many, which shares Step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from carousel import tensors
from carousel.client._call import Call
from carousel.client._cursor import MODES
from carousel.client._inference_values import Trace
from carousel.client._inputs import Array, Floats, Input, chunk_input, input_tensor, sequence_inputs
from carousel.client._names import model_name
from carousel.client._priority import priority_number
from carousel.client._session_values import named_arrays
from carousel.errors import InvalidField
from carousel.v1 import inference_service_pb2 as pb


def output_mode(outputs: str, allowed: Sequence[str] = ("all", "last", "none")) -> int:
    if outputs not in allowed:
        raise InvalidField(
            f"outputs must be one of {', '.join(allowed)}, got {outputs!r}", field="output_mode"
        )
    return MODES[outputs]


def predict(model: str, xs: Sequence[Input] | Array, outputs: str, priority: str) -> Call[Floats]:
    """All rows, [rows, O], of all sequences."""
    lengths, inputs = sequence_inputs(xs)
    request = pb.PredictRequest(model=model_name(model), lengths=lengths, inputs=inputs)
    request.output_mode = output_mode(outputs, ("all", "last"))  # type: ignore[assignment]
    request.priority = priority_number(priority)  # type: ignore[assignment]
    return Call(_path("Predict"), request, pb.PredictResponse, _rows)


def by_sequence(rows: Floats, xs: Sequence[Input] | Array) -> list[Floats]:
    """Rows of all steps, cut into sequences again: [T, O] each."""
    ends = np.cumsum([np.shape(x)[0] for x in xs])
    return [part.copy() for part in np.split(rows, ends[:-1])]


def trace(source: str, sequence: Input | str) -> Call[Trace]:
    request = pb.TraceRequest()
    if source.startswith("sessions/"):
        request.session = source
    else:
        request.model = model_name(source)
    if isinstance(sequence, str):
        request.text = sequence
    else:
        width, steps, data = chunk_input(sequence)
        request.inputs.CopyFrom(input_tensor(width, steps, data))
    return Call(_path("Trace"), request, pb.TraceResponse, _trace)


def _path(method: str) -> str:
    return f"carousel.v1.InferenceService/{method}"


def _rows(message: pb.PredictResponse) -> Floats:
    return tensors.decode(message.outputs, field="outputs").copy()


def _trace(message: pb.TraceResponse) -> Trace:
    return Trace(
        layers=tuple(named_arrays(layer.values) for layer in message.layers),
        outputs=tensors.decode(message.outputs, field="outputs"),
        model_version=message.model_version,
    )
