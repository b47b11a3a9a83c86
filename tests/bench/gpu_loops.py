"""Loops of the suite `gpu`: turns of the engine, and what makes them fast, one thing at a time.

One layer of an LSTM, 64 features, 64 outputs. They run on any device, so that a CPU can test them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from carousel.model import Features, Kernel, Linear, ModelConfig, Network
from carousel.model.kernels.device import device_of
from carousel.model.kernels.fused import Fused, Half
from carousel.model.kernels.gates import TORCH, gates_for
from carousel.server.accelerator import Accelerator, Launched
from carousel.server.arena import Arena

INPUT = OUTPUT = 64
CALLS = 50  # between two waits, where one is not the end of a turn

Call = Callable[[], object]


class Gpu:
    """`call` gives a loop's body and the steps that it takes."""

    def __init__(self, device: str, precision: str, batch: int, hidden: int) -> None:
        torch.manual_seed(0)
        self._name, self._batch = device, batch
        self._device = torch.device(device)
        self._precision = precision
        self._config = ModelConfig(
            cell="lstm", layers=1, hidden_size=hidden, input=Features(INPUT), head=Linear(OUTPUT)
        )
        self._x = np.random.default_rng(0).standard_normal((batch, INPUT)).astype(np.float32)

    def call(self, what: str) -> tuple[Call, int]:
        return {
            "turn": self._turn,
            "turns": self._turns,
            "eager": lambda: self._eager(in_torch=False),
            "eager, gates in torch": lambda: self._eager(in_torch=True),
            "graph": lambda: self._graph(in_torch=False),
            "graph, gates in torch": lambda: self._graph(in_torch=True),
            "copies": self._copies,
        }[what]()

    def error(self) -> float:
        """How far outputs are off, as a share of the largest; the reference is in float64."""
        network = self._network()
        x, rows = torch.from_numpy(self._x), torch.randn(self._batch, 2 * self._config.hidden_size)
        wanted = network.double()(x[:, None].double(), rows.double())[0][:, 0]
        found, _ = self._kernel().step(x.to(self._device), rows.to(self._device))
        return float((found.cpu() - wanted).abs().max() / wanted.abs().max())

    def _network(self) -> Network:
        torch.manual_seed(1)
        return Network(self._config).eval()

    def _kernel(self, *, in_torch: bool = False) -> Kernel:
        gates = TORCH if in_torch else gates_for(self._device)
        if self._precision == "float32":
            return Fused(self._network(), self._name, gates)
        if self._precision == "bfloat16":
            return Half(self._network(), self._name, "bfloat16", gates)
        return Half(self._network(), self._name, "float16", gates)

    def _accelerator(self, *, in_torch: bool = False) -> tuple[Accelerator, Arena]:
        arena = Arena(2 * self._config.hidden_size, limit=4 * self._batch, device=self._name)
        arena.allocate(4 * self._batch)
        kernel, most = self._kernel(in_torch=in_torch), self._batch
        device = device_of(self._device)
        made = Accelerator(device, kernel, arena, x=self._x[:1], outputs=OUTPUT, max_batch=most)
        return made, arena

    def _turn(self) -> tuple[Call, int]:
        """Everything that a turn does on the device, and then waits for: what one session feels."""
        accelerator, arena = self._accelerator()
        rows = np.random.default_rng(1).permutation(4 * self._batch)[: self._batch]

        def call() -> None:
            _land(accelerator.launch(self._x, rows), arena)

        return call, self._batch

    def _turns(self) -> tuple[Call, int]:
        """As the engine does when there is always another: one is launched, one is landed."""
        accelerator, arena = self._accelerator()
        half = np.random.default_rng(1).permutation(4 * self._batch).reshape(4, -1)[:2]
        under_way, number = [accelerator.launch(self._x, half[0])], 0

        def call() -> None:
            nonlocal number
            number += 1
            under_way.append(accelerator.launch(self._x, half[number % 2]))
            _land(under_way.pop(0), arena)

        return call, self._batch

    def _eager(self, *, in_torch: bool) -> tuple[Call, int]:
        kernel = self._kernel(in_torch=in_torch)
        x = torch.from_numpy(self._x).to(self._device)
        rows = torch.randn(self._batch, 2 * self._config.hidden_size, device=self._device)
        return self._many(lambda: kernel.step(x, rows))

    def _graph(self, *, in_torch: bool) -> tuple[Call, int]:
        kernel = self._kernel(in_torch=in_torch)
        x = torch.from_numpy(self._x).to(self._device)
        rows = torch.randn(self._batch, 2 * self._config.hidden_size, device=self._device)
        return self._many(device_of(self._device).capture(lambda: kernel.step(x, rows)))

    def _copies(self) -> tuple[Call, int]:
        """Inputs and row numbers up, outputs down, pinned, waited for each time."""
        device = device_of(self._device)
        size = self._batch * (8 + 4 * INPUT)
        sent, came = device.pinned(size, torch.uint8), self._zeros(size, torch.uint8)
        results = self._zeros(self._batch * (1 + OUTPUT), torch.float32)
        received = device.pinned(len(results), torch.float32)

        def call() -> None:
            device.upload(sent, came)
            device.download(results, received)()

        return call, self._batch

    def _many(self, once: Call) -> tuple[Call, int]:
        def call() -> None:
            for _ in range(CALLS):
                once()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)

        return call, CALLS * self._batch

    def _zeros(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(size, dtype=dtype, device=self._device)


def _land(launched: Launched, arena: Arena) -> None:
    done = launched.land()
    arena.scatter(done.index, done.new)
    launched.release()
