"""Whole sequences beside the engine: Predict and Trace keep nothing and wait for no turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

from carousel import tensors
from carousel.errors import ChunkTooLong, InvalidField
from carousel.server import names, steps
from carousel.server.call_queue import CallQueue
from carousel.server.hall import Hall
from carousel.server.inputs import bad_inputs, read_inputs
from carousel.server.loaded import LoadedVersion
from carousel.server.texts import encode_text
from carousel.server.work import Floats, Inputs, Ints
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import tensor_pb2

T = TypeVar("T")

MAX_TRACE = 4096
MAX_WAITING = 256
PADDED_STEPS = 2**18  # of one call of the network at most
PADDED_BYTES = 256 * 2**20  # of its outputs at most, whether they are asked for or not
EMPTY: Floats = np.zeros((0, 0), np.float32)


class Sequences:
    """Runs whole sequences in a thread of their own, so that steps never wait for them."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._thread = ThreadPoolExecutor(1, "carousel-sequences")
        self._queue = CallQueue(MAX_WAITING, hall.tracer)

    async def predict(self, request: pb.PredictRequest, tenant: str) -> pb.PredictResponse:
        version = self._hall.registry.resolve(request.model, tenant)
        lengths = np.array(request.lengths, np.int64)
        if not 0 < len(lengths) <= steps.MAX_ITEMS or lengths.min() < 1:
            got = f"{len(lengths)} of them, the least {lengths.min()}" if len(lengths) else "none"
            raise InvalidField(
                f"a message has 1 to {steps.MAX_ITEMS} sequences, and each at least 1 step: "
                f"lengths must say so, got {got}",
                field="lengths",
            )
        if request.output_mode == pb.OUTPUT_MODE_NONE:
            raise InvalidField("output_mode must be ALL or LAST, got NONE", field="output_mode")
        only_last = request.output_mode == pb.OUTPUT_MODE_LAST
        self._check_lengths(version, lengths, only_last)
        inputs = read_inputs(request.inputs, version, int(lengths.sum()))
        if refused := bad_inputs(inputs, version, lengths):
            raise min(refused, key=lambda pair: pair[0])[1]
        bulk = request.priority == pb.PRIORITY_BULK
        self._hall.check_quotas(version, tenant, items=1, steps=len(inputs))
        async with self._queue.turn(version, len(inputs), tenant=tenant, bulk=bulk):
            outputs = await self._run(_predict_aside, version, inputs, lengths, only_last)
        return pb.PredictResponse(outputs=tensors.encode(outputs), model_version=version.name)

    def _check_lengths(self, version: LoadedVersion, lengths: Ints, only_last: bool) -> None:
        """Refuse what would take too much memory, before any is taken."""
        settings = self._hall.settings
        longest = settings.max_chunk
        if not version.stepwise:  # nobody can read it in parts
            longest = min(longest, _steps_at_once(version))
        if lengths.max() > longest:
            raise ChunkTooLong(
                f"a sequence for {version.name} must have at most {longest} steps, "
                f"got {lengths.max()}",
                field="lengths",
            )
        wanted = len(lengths) if only_last else int(lengths.sum())
        limit = settings.max_message_bytes
        steps.check_reply_size(version, steps=wanted, items=0, limit=limit)

    async def trace(self, request: pb.TraceRequest, tenant: str) -> pb.TraceResponse:
        source = request.WhichOneof("source")
        if source is None:
            raise InvalidField("model or session must be set", field="source")
        if source == "model":
            version = self._hall.registry.resolve(request.model, tenant)
            row = version.network.initial_rows(1)[0]
        else:
            session_id = names.key_of(tenant, names.session_id(request.session, field="session"))
            await self._hall.resident(session_id)
            exported = await self._hall.engine.call(self._hall.sessions.export, session_id)
            version, row = exported.version, exported.row
        if not version.stepwise:
            raise InvalidField("a bidirectional model has no trace step by step", field="model")
        inputs = self._sequence(request, version)
        limit = self._hall.settings.max_message_bytes
        steps.check_reply_size(version, steps=len(inputs), items=0, limit=limit)
        self._hall.check_quotas(version, tenant, items=1, steps=len(inputs))
        async with self._queue.turn(version, len(inputs), tenant=tenant):
            gates, outputs = await self._run(_trace, version, inputs, row)
        layers = [
            pb.LayerTrace(
                values=[
                    tensor_pb2.NamedTensor(name=name, tensor=tensors.encode(value[:, layer]))
                    for name, value in gates.items()
                ]
            )
            for layer in range(version.config.layers)
        ]
        return pb.TraceResponse(
            layers=layers, outputs=tensors.encode(outputs), model_version=version.name
        )

    def _sequence(self, request: pb.TraceRequest, version: LoadedVersion) -> Inputs:
        kind = request.WhichOneof("sequence")
        if kind is None:
            raise InvalidField("inputs or text must be set", field="sequence")
        if kind == "text":
            inputs: Inputs = encode_text(version.name, version.config, request.text, field="text")
        else:
            shape = request.inputs.shape
            inputs = read_inputs(request.inputs, version, shape[0] if shape else 0)
            if refused := bad_inputs(inputs, version, None):
                raise refused[-1][1]
        if not 1 <= len(inputs) <= MAX_TRACE:
            raise ChunkTooLong(f"a trace has 1 to {MAX_TRACE} steps, got {len(inputs)}")
        return inputs

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


def _predict_aside(
    version: LoadedVersion, inputs: Inputs, lengths: Ints, only_last: bool
) -> Floats:
    with version.computes_on.aside():
        return _predict(version, inputs, lengths, only_last)


def _predict(version: LoadedVersion, inputs: Inputs, lengths: Ints, only_last: bool) -> Floats:
    """Outputs [rows, O], sequence after sequence."""
    starts = np.cumsum(lengths) - lengths
    outputs: list[Floats] = [EMPTY] * len(lengths)
    most = _steps_at_once(version)
    for group in _groups(lengths, most):
        some = np.concatenate([inputs[starts[i] : starts[i] + lengths[i]] for i in group])
        if len(some) > most and version.stepwise:
            rows = [_predict_in_parts(version, some, most, only_last)]
        else:
            rows = _predict_padded(version, some, lengths[group], only_last)
        for i, own in zip(group.tolist(), rows, strict=True):
            outputs[i] = own
    return np.concatenate(outputs)


def _steps_at_once(version: LoadedVersion) -> int:
    """Steps of one call of the network, whose outputs fit."""
    return max(1, min(PADDED_STEPS, PADDED_BYTES // (4 * version.config.output_size)))


def _groups(lengths: Ints, steps: int) -> Iterator[Ints]:
    """Sequences of about one length together, so that padding stays small and memory bounded.

    Only one that is alone can have more than `steps`.
    """
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        count = max(1, steps // int(lengths[order[0]]))
        yield order[:count]
        order = order[count:]


def _predict_padded(
    version: LoadedVersion, inputs: Inputs, lengths: Ints, only_last: bool
) -> list[Floats]:
    """Outputs [rows, O] of each of the sequences, which are run as one padded batch."""
    longest = int(lengths.max())
    padded = np.zeros((len(lengths), longest, *inputs.shape[1:]), inputs.dtype)
    real = np.arange(longest) < lengths[:, None]  # [B, T]
    padded[real] = inputs
    with torch.no_grad():
        outputs = version.kernel.sequences(
            torch.from_numpy(padded).to(version.device), torch.from_numpy(lengths)
        ).cpu()
    values: Floats = outputs.numpy()  # [B, T, O]
    return [
        own[end - 1 if only_last else 0 : end].copy()  # so that the batch can go
        for own, end in zip(values, lengths.tolist(), strict=True)
    ]


def _predict_in_parts(
    version: LoadedVersion, inputs: Inputs, steps: int, only_last: bool
) -> Floats:
    """Outputs [rows, O] of one sequence, so many steps at a time, each from the state before."""
    rows = version.network.initial_rows(1).detach().to(version.device, torch.float32)
    outputs: list[Floats] = []
    for begin in range(0, len(inputs), steps):
        part = torch.from_numpy(inputs[begin : begin + steps].copy()).to(version.device)
        with torch.no_grad():
            y, rows = version.kernel.chunk(part[None], torch.tensor([len(part)]), rows)
        own = y[0, -1:] if only_last else y[0]  # [T, O]
        outputs = [*([] if only_last else outputs), own.cpu().numpy().copy()]
    return np.concatenate(outputs)


def _trace(
    version: LoadedVersion, inputs: Inputs, row: torch.Tensor
) -> tuple[dict[str, Floats], Floats]:
    """Gates by name, each [T, L, H], and outputs [T, O]."""
    with torch.no_grad():
        x, rows = torch.from_numpy(inputs.copy()).to(version.device), row[None].to(version.device)
        trace = version.network.trace(x, rows)
    gates = {name: value.cpu().numpy() for name, value in trace.gates.items()}
    return gates, trace.outputs.cpu().numpy()
