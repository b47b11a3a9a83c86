"""Steps and chunks through onnxruntime: one call a step, outside the interpreter's lock."""

from typing import Any

import onnxruntime
import torch
from torch import Tensor

from carousel.model.errors import ConfigError
from carousel.model.kernels.graph import chunk_graph, step_graph
from carousel.model.kernels.kernel import Array, OfArrays, chunk_by_steps, forward_only
from carousel.model.kernels.ragged import cuts
from carousel.model.network import Network, padding_mask

# For the plan of ragged batches only: one call, and a thousand weights for one row (in us).
CALL_COST, ROW_COST = 100.0, 0.03
OUTPUTS = ["y", "new_rows"]


class Onnx(OfArrays):
    """The default on CPU. `threads` is for one call; calls from several threads are safe."""

    name = "onnx"

    def __init__(self, network: Network, device: str = "cpu", *, threads: int = 1) -> None:
        self.device = torch.device(device)
        if self.device.type != "cpu":
            raise ConfigError(f"the onnx kernel runs on cpu, got {device}")
        self.network = network
        config, size = network.config, sum(p.numel() for p in network.rnn.parameters())
        self.row_cost = ROW_COST * size / 1000
        largest = max(float(p.detach().abs().max()) for p in network.rnn.parameters())
        # No sum in a product can overflow while every number read is below this.
        self.safe = 1e38 / (1 + largest) / (config.input_size + 2 * config.hidden_size + 2)
        # onnxruntime's recurrent operators know no projection, and their rectifier turns NaN
        # into 0, which would hide a state that has exploded.
        operators = not config.projection and config.cell != "rnn_relu"
        with torch.no_grad():
            self._step = (
                None
                if config.bidirectional
                else open_session(step_graph(network), threads, arena=True)
            )
            self._chunk = (
                open_session(chunk_graph(network), threads, arena=False) if operators else None
            )

    def step_arrays(self, x: Array, rows: Array) -> tuple[Array, Array]:
        if self._step is None:
            forward_only(self.network)
        return run_session(self._step, {"x": x, "rows": rows})

    @torch.no_grad()
    def chunk(self, x: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        forward_only(self.network)
        if self._chunk is None:
            return chunk_by_steps(self.step, x, lengths, rows, self.network.config.output_size)
        return self._checked(x, lengths, rows)

    @torch.no_grad()
    def sequences(self, x: Tensor, lengths: Tensor) -> Tensor:
        rows = self.network.initial_rows(len(x))
        if self._chunk is None:
            return self.network.forward_fused(x, rows, lengths)[0]
        return self._checked(x, lengths, rows)[0]

    def _checked(self, x: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Run the operators, which lose NaN on the way; rows that could make one run in torch."""
        past = ~padding_mask(x, lengths)  # [B, T]
        x = x.masked_fill(past if x.dim() == 2 else past[..., None], 0)
        wild = ~(rows.abs().amax(1) <= self.safe)  # [B]; so is NaN
        if not self.network.config.takes_tokens:
            wild |= ~(self.network.encode(x).abs().amax((1, 2)) <= self.safe)
        y, after = self._cut(x, lengths, rows)
        if bool(wild.any()):
            exact = self.network.forward_fused(x[wild], rows[wild], lengths[wild])
            y[wild], after[wild] = exact
        return y.masked_fill_(past[..., None], 0), after

    def _cut(self, x: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        even = bool((lengths == x.shape[1]).all())
        if even or self.network.config.bidirectional:  # both ends are read: no cut in time
            return self._call(x, lengths, rows)
        order = torch.argsort(lengths, descending=True)
        x, lengths, rows = x[order], lengths[order], rows[order]
        y = torch.zeros(*x.shape[:2], self.network.config.output_size)  # [B, T, O]
        for begin, end, n in cuts(lengths.numpy(), self.row_cost, CALL_COST):
            real = (lengths[:n] - begin).clamp_max(end - begin)
            y[:n, begin:end], rows[:n] = self._call(x[:n, begin:end], real, rows[:n])
        back = torch.argsort(order)
        return y[back], rows[back]

    def _call(self, x: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        given = {"x": x, "lengths": lengths.int(), "rows": rows}
        arrays = {name: value.contiguous().numpy() for name, value in given.items()}
        y, new = run_session(self._chunk, arrays)
        return torch.from_numpy(y), torch.from_numpy(new)


def open_session(graph: bytes, threads: int, *, arena: bool) -> Any:
    """A session of onnxruntime on CPU, whose threads never spin."""
    options = onnxruntime.SessionOptions()
    # An arena keeps its largest size for ever: right for steps, whose size is the batch, but one
    # long chunk must not be paid for until the server stops. A pattern is kept for every shape.
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = False
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A thread that spins while it waits takes the core from the rest of the server.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, inputs: dict[str, Array]) -> tuple[Array, Array]:
    y, rows = session.run(OUTPUTS, inputs)
    return y, rows
