"""The bare process: ceilings without gRPC, each a loop around one call."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.bench.child import answer_calls
from tests.bench.models import HIDDEN, INPUT, LAYERS, POOL, Floats, inputs, name_of
from tests.bench.sample import Sample
from tests.bench.whole_sequences import sequences

Call = Callable[[int], object]


def run(pipe: Connection, store: Path) -> None:
    """The main function of the bare process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send((True, None))
    answer_calls(pipe, Bare(store))


class Bare:
    """Loops by key. One thread computes, as in the server."""

    def __init__(self, store: Path) -> None:
        import torch

        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        self._store = store
        self._networks: dict[str, Any] = {}
        self._kernels: dict[str, Any] = {}
        self._calls: dict[str, tuple[Call, int]] = {}  # a call, and the steps that it takes
        self._counts: dict[str, int] = {}

    def open_engine(
        self, key: str, cell: str, hidden: int, batch: int, exact: bool = False
    ) -> None:
        """The step of the very kernel that the server uses, rows in, rows out."""
        kernel, xs = self._kernel(cell, hidden, exact), inputs(batch)
        rows = self._network(cell, hidden).initial_rows(batch).numpy()

        def call(number: int) -> None:
            nonlocal rows
            _, rows = kernel.step_arrays(xs[number % POOL], rows)

        self._calls[key] = call, batch

    def open_int8(self, key: str, hidden: int, batch: int) -> None:
        """The step in 8 bits."""
        from carousel.model import make_kernel

        network = self._network("lstm", hidden)
        kernel = make_kernel(network, precision="int8")
        xs, rows = inputs(batch), network.initial_rows(batch).numpy()

        def call(number: int) -> None:
            nonlocal rows
            _, rows = kernel.step_arrays(xs[number % POOL], rows)

        self._calls[key] = call, batch

    def gpu_name(self) -> str:
        """Of the device that the suite `gpu` runs on; empty where there is none."""
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else ""

    def open_gpu(self, key: str, what: str, precision: str, batch: int, hidden: int) -> None:
        """A loop of `tests.bench.gpu_loops`."""
        from tests.bench.gpu_loops import Gpu

        call, steps = Gpu("cuda:0", precision, batch, hidden).call(what)
        self._calls[key] = lambda number: call(), steps

    def gpu_error(self, precision: str, batch: int, hidden: int) -> float:
        from tests.bench.gpu_loops import Gpu

        return Gpu("cuda:0", precision, batch, hidden).error()

    def open_slices(self, key: str, cell: str, hidden: int, batch: int, exact: bool) -> None:
        """The same kernel on slices of 16 steps."""
        import torch

        kernel = self._kernel(cell, hidden, exact)
        x = torch.from_numpy(inputs(batch)).transpose(0, 1).contiguous()  # [B, POOL, D]
        lengths = torch.full((batch,), POOL)
        rows = self._network(cell, hidden).initial_rows(batch)

        def call(number: int) -> None:
            nonlocal rows
            _, rows = kernel.chunk(x, lengths, rows)

        self._calls[key] = call, batch * POOL

    def open_onnx_lstm(self, key: str, hidden: int, batch: int) -> None:
        """onnxruntime's own LSTM operator at T = 1, two of them in one graph."""
        from tests.bench.onnx_lstm import session

        runtime = session(self._network("lstm", hidden))
        xs = [np.ascontiguousarray(x[None]) for x in inputs(batch)]
        states = {
            name: np.zeros((1, batch, hidden), np.float32)
            for layer in range(LAYERS)
            for name in (f"h{layer}", f"c{layer}")
        }

        def call(number: int) -> None:
            _, *new = runtime.run(None, {"x": xs[number % POOL], **states})
            states.update(zip(states, new, strict=True))

        self._calls[key] = call, batch

    def open_products(self, key: str, hidden: int, batch: int, library: str) -> None:
        """The matrix products of an LSTM step alone: [B, D + H] and [B, 2 H] by [.., 4 H]."""
        import torch

        random = np.random.default_rng(2)
        pairs = [
            (
                random.standard_normal((batch, size), dtype=np.float32),
                random.standard_normal((size, 4 * hidden), dtype=np.float32),
                np.empty((batch, 4 * hidden), np.float32),
            )
            for size in (INPUT + hidden, 2 * hidden)
        ]
        tensors = [tuple(torch.from_numpy(array) for array in pair) for pair in pairs]

        def by_torch(number: int) -> None:
            for left, right, out in tensors:
                torch.mm(left, right, out=out)

        def by_numpy(number: int) -> None:
            for left, right, out in pairs:
                np.matmul(left, right, out=out)

        self._calls[key] = (by_torch if library == "torch" else by_numpy), batch

    def open_sequences(self, key: str, cell: str, hidden: int, count: int, onednn: bool) -> None:
        """Bare nn.LSTM on one padded batch, head included."""
        import torch

        network = self._network(cell, hidden)
        values, long = sequences(count)
        padded = np.zeros((count, int(long.max()), INPUT), np.float32)
        padded[np.arange(padded.shape[1]) < long[:, None]] = values
        x = torch.from_numpy(padded)

        def call(number: int) -> None:
            torch.backends.mkldnn.enabled = onednn  # type: ignore[assignment]
            network.head(network.rnn(x)[0])

        self._calls[key] = call, int(long.sum())

    def run(self, key: str, seconds: float) -> Sample:
        call, steps = self._calls[key]
        first = number = self._counts.get(key, 0)
        call(number)  # what was asleep wakes up
        begin = time.perf_counter()
        end = begin + seconds
        while (now := time.perf_counter()) < end:
            call(number)
            number += 1
        self._counts[key] = number
        return Sample((number - first) * steps, now - begin)

    def close(self, key: str) -> None:
        del self._calls[key]

    def reference(self, cell: str, hidden: int, steps: int, sessions: int, total: int) -> Floats:
        """Network.forward on the inputs of the first sessions of `total`: [sessions, steps, O]."""
        import torch

        network = self._network(cell, hidden)
        x = torch.from_numpy(inputs(total)[:steps, :sessions].swapaxes(0, 1).copy())
        y, _ = network(x, network.initial_rows(sessions))
        values: Floats = y.numpy()
        return values

    def reference_sequences(self, cell: str, hidden: int, count: int) -> Floats:
        """Network.forward on each sequence alone: [steps, O]."""
        import torch

        network = self._network(cell, hidden)
        values, long = sequences(count)
        parts = np.split(values, np.cumsum(long)[:-1])
        start = network.initial_rows(1)
        found = [network(torch.from_numpy(part.copy())[None], start)[0][0] for part in parts]
        together: Floats = torch.cat(found).numpy()
        return together

    def kernel_error(self, cell: str, hidden: int) -> float:
        """The largest difference of the kernel's outputs from the reference, over 6 steps."""
        import torch

        kernel, network = self._kernel(cell, hidden), self._network(cell, hidden)
        rows, found = network.initial_rows(8), []
        for x in inputs(8)[:6]:
            y, rows = kernel.step(torch.from_numpy(x), rows)
            found.append(y.numpy())
        return float(np.abs(np.stack(found, 1) - self.reference(cell, hidden, 6, 8, 8)).max())

    def int8_share(self, hidden: int) -> float:
        """The largest difference of an output in int8, as a share of the largest output."""
        import torch

        from carousel.model.precision import compare

        x = torch.from_numpy(inputs(8)).transpose(0, 1).contiguous()  # [8, POOL, D]
        return compare(self._network("lstm", hidden), x).share

    def onnx_lstm_error(self, hidden: int) -> float:
        from tests.bench.onnx_lstm import session

        runtime = session(self._network("lstm", hidden))
        states: list[npt.NDArray[Any]] = [np.zeros((1, 8, hidden), np.float32)] * (2 * LAYERS)
        names = [f"{kind}{layer}" for layer in range(LAYERS) for kind in "hc"]
        found = []
        for x in inputs(8)[:6]:
            given = dict(zip(names, states, strict=True))
            y, *states = runtime.run(None, {"x": x[None], **given})
            found.append(y[0])
        return float(np.abs(np.stack(found, 1) - self.reference("lstm", hidden, 6, 8, 8)).max())

    def ladder(self, brief: bool) -> Any:
        """The rungs of `carousel bench kernels`."""
        from carousel.model import climb

        return climb(blocks=3 if brief else 5, seconds=0.05 if brief else 0.2)

    def kernel_name(self) -> str:
        return str(self._kernel("lstm", HIDDEN[0]).name)

    def _network(self, cell: str, hidden: int) -> Any:
        from carousel.model import load

        name = name_of(cell, hidden)
        if name not in self._networks:
            self._networks[name] = load(self._store / name / "1").eval()
        return self._networks[name]

    def _kernel(self, cell: str, hidden: int, exact: bool = False) -> Any:
        from carousel.model import make_kernel

        name = name_of(cell, hidden) + (" exact" if exact else "")
        if name not in self._kernels:
            self._kernels[name] = make_kernel(self._network(cell, hidden), bit_exact=exact)
        return self._kernels[name]
