"""Naive servers: what a user writes in an afternoon, with the same messages as the real one.

`NaiveInference`: a dict of states and one call of nn.LSTM for each request. `BatchingInference`:
the same with dynamic batching, in a thread beside the event loop. `Held`: the state travels. And
`aio`, the null service as grpc.aio alone serves it, by the generated code and with nothing around.
oneDNN is off, because with it nn.LSTM packs its weights again at every single step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from torch import Tensor, nn

from carousel.model import load
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import inference_service_pb2_grpc, tensor_pb2
from tests.bench.models import INPUT, LAYERS
from tests.bench.null import PlainInference

State = tuple[Tensor, Tensor]
HELD = "/carousel.bench.Held/Step"
LARGEST_BATCH = 256


class Model:
    """nn.LSTM and a head, with the weights of a model of the store."""

    def __init__(self, folder: Path) -> None:
        network = load(folder).eval()
        assert isinstance(network.rnn, nn.LSTM)
        assert network.head is not None
        self.rnn, self.head = network.rnn, network.head
        self.hidden = network.config.hidden_size

    def start(self) -> State:
        return torch.zeros(LAYERS, 1, self.hidden), torch.zeros(LAYERS, 1, self.hidden)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x [B, D], state [L, B, H] each -> y [B, O] and the new state."""
        with torch.inference_mode():
            y, state = self.rnn(x[:, None], state)
            return self.head(y[:, 0]), state


def read(request: pb.StepRequest) -> Tensor:
    data = np.frombuffer(request.inputs.data, np.float32)
    return torch.from_numpy(data.copy()).reshape(-1, INPUT)


def write(request: pb.StepRequest, y: Tensor) -> pb.StepResponse:
    return pb.StepResponse(
        handles=request.handles,
        step_indexes=request.step_indexes,
        outputs=tensor_pb2.Tensor(
            data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=y.shape, data=y.numpy().tobytes()
        ),
    )


class NaiveInference:
    """No batching: every request is a call of the network."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.states: dict[int, State] = {}

    async def Step(self, request: pb.StepRequest, context: object) -> pb.StepResponse:
        handle = request.handles[0]
        state = self.states.get(handle) or self.model.start()
        y, self.states[handle] = self.model.step(read(request), state)
        return write(request, y)

    async def missing(self, request: Any, context: object) -> Any:
        raise NotImplementedError

    StreamSteps: Any = missing
    Predict = Trace = Generate = StepStates = missing


class BatchingInference(NaiveInference):
    """A queue, and a loop that steps whoever is in it."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.queue: asyncio.Queue[tuple[pb.StepRequest, asyncio.Future[pb.StepResponse]]] = (
            asyncio.Queue()
        )
        self.thread = ThreadPoolExecutor(1)
        self.turns = asyncio.create_task(self._turn())

    async def Step(self, request: pb.StepRequest, context: object) -> pb.StepResponse:
        future = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((request, future))
        response: pb.StepResponse = await future
        return response

    async def StreamSteps(
        self, requests: AsyncIterator[pb.StreamStepsRequest], context: object
    ) -> AsyncIterator[pb.StreamStepsResponse]:
        async for request in requests:
            yield pb.StreamStepsResponse(step=await self.Step(request.step, context))

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            waiting = [await self.queue.get()]
            while not self.queue.empty() and len(waiting) < LARGEST_BATCH:
                waiting.append(self.queue.get_nowait())
            answers = await loop.run_in_executor(self.thread, self._run, [r for r, _ in waiting])
            for (_, future), response in zip(waiting, answers, strict=True):
                if not future.done():
                    future.set_result(response)

    def _run(self, requests: list[pb.StepRequest]) -> list[pb.StepResponse]:
        start = self.model.start()
        states = [self.states.get(r.handles[0], start) for r in requests]
        x = torch.cat([read(r) for r in requests])
        joined = (torch.cat([h for h, _ in states], 1), torch.cat([c for _, c in states], 1))
        y, (h, c) = self.model.step(x, joined)
        for request, new_h, new_c in zip(
            requests, torch.split(h, 1, 1), torch.split(c, 1, 1), strict=True
        ):
            self.states[request.handles[0]] = (new_h, new_c)
        return [write(r, row) for r, row in zip(requests, torch.split(y, 1), strict=True)]


SERVICERS: dict[str, Callable[[Model], Any]] = {
    "aio": PlainInference,
    "naive": NaiveInference,
    "batching": BatchingInference,
}


async def held_step(model: Model, request: bytes) -> bytes:
    """x, h, c -> y, h, c, as plain float32."""
    values = torch.from_numpy(np.frombuffer(request, np.float32).copy())
    size = LAYERS * model.hidden
    x, h, c = torch.split(values, [INPUT, size, size])
    y, (h, c) = model.step(x[None], (h.reshape(LAYERS, 1, -1), c.reshape(LAYERS, 1, -1)))
    return torch.cat([y.flatten(), h.flatten(), c.flatten()]).numpy().tobytes()


async def start(kind: str, folder: Path) -> tuple[grpc.aio.Server, int]:
    """Listen on a free port."""
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    model = Model(folder)
    # Without these gRPC cancels calls at random above 1,000 callers.
    pending = ("max_pending_requests", "max_pending_requests_hard_limit")
    server = grpc.aio.server(options=[(f"grpc.server.{name}", 100_000) for name in pending])
    if kind == "held":

        async def step(request: bytes, context: Any) -> bytes:
            return await held_step(model, request)

        handler: Any = grpc.unary_unary_rpc_method_handler(step)
        service, method = HELD[1:].split("/")
        generic = grpc.method_handlers_generic_handler(service, {method: handler})
        server.add_generic_rpc_handlers((generic,))
    else:
        servicer: Any = SERVICERS[kind](model)
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port
