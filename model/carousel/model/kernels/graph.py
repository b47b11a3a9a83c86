"""ONNX graphs of a network, built in memory: one for a single step, one for whole chunks.

Shapes: B batch, T time, D input, H hidden, P projection, L layers, O output, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from carousel.model.cells import Weights
from carousel.model.config import Cell, Linear, ModelConfig
from carousel.model.network import Network

State = dict[str, str]  # the values that hold one layer's state
Inputs = dict[str, tuple[int, list[Any]]]

OPSET, IR_VERSION = 18, 10
MICROSOFT = "com.microsoft"  # onnxruntime's own operators
OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}
# torch's gates i, f, g, o and r, z, n in the order of the ONNX operators: i, o, f, c and z, r, h.
ONNX_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}
# Up to this vocabulary the first product of a step is one row of a table, made once.
TABLE_VOCABULARY = 1024


class Graph:
    """Nodes and constants in the making; a value is its name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def _name(self) -> str:
        return f"v{len(self.nodes) + len(self.constants)}"

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        return self.many(op, 1, *inputs, **attributes)[0]

    def many(self, op: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        name = self._name()
        names = [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names

    def constant(self, value: Tensor | np.ndarray[Any, Any] | list[int]) -> str:
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        name = self._name()
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def split(self, value: str, pieces: int | list[int]) -> list[str]:
        """Pieces along axis 1, equal or of the sizes given."""
        if isinstance(pieces, int):
            return self.many("Split", pieces, value, axis=1, num_outputs=pieces)
        return self.many("Split", len(pieces), value, self.constant(pieces), axis=1)

    def affine(self, value: str, weight: Tensor, bias: Tensor) -> str:
        return self("Gemm", value, self.constant(weight.T), self.constant(bias))

    def read_hidden(self, h: str, weight: Tensor, added: str | Tensor) -> str:
        """The product of hidden states [B, H] with a weight [G H, H], and what is added to it."""
        if isinstance(added, Tensor):
            added = self.constant(added)
        return self("Gemm", h, self.constant(weight.T), added)

    def model(self, inputs: Inputs, outputs: dict[str, str]) -> bytes:
        for name, value in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [name]))
        graph = helper.make_graph(
            self.nodes,
            "carousel",
            [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            self.constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return bytes(made.SerializeToString())


def step_graph(network: Network, graph: Graph | None = None) -> bytes:
    """(x [B, D] or [B], rows [B, width]) -> (y [B, O], new_rows [B, width])."""
    graph, config = graph or Graph(), network.config
    states = _split_rows(graph, network)
    hidden = ""
    for layer, state in enumerate(states):
        weights = network.weights(layer)
        if layer:
            read = graph.read_hidden(hidden, weights.ih, _read_bias(config, weights))  # [B, G H]
        else:
            read = _first_product(graph, network, weights)
        state |= STEPS[config.cell](graph, read, state, weights)
        hidden = state["h"]
    y = _decode(graph, network, hidden, 2)
    outputs = {"y": y, "new_rows": _join_rows(graph, network, states)}
    return graph.model(_inputs(network, ["B"]), outputs)


def _lstm(graph: Graph, read: str, state: State, w: Weights) -> State:
    # Two products, not one over [x, h]: the second adds to the first and nothing is joined.
    z = graph.read_hidden(state["h"], w.hh, read)  # [B, 4 H]
    z_i, z_f, z_g, z_o = graph.split(z, 4)
    i, f, o = (graph("Sigmoid", gate) for gate in (z_i, z_f, z_o))
    written = graph("Mul", i, graph("Tanh", z_g))
    c = graph("Add", graph("Mul", f, state["c"]), written)
    h = graph("Mul", o, graph("Tanh", c))
    return {"h": h if w.hr is None else graph("MatMul", h, graph.constant(w.hr.T)), "c": c}


def _gru(graph: Graph, read: str, state: State, w: Weights) -> State:
    x_r, x_z, x_n = graph.split(read, 3)
    h_r, h_z, h_n = graph.split(graph.read_hidden(state["h"], w.hh, w.bias_hh), 3)
    r = graph("Sigmoid", graph("Add", x_r, h_r))
    z = graph("Sigmoid", graph("Add", x_z, h_z))
    n = graph("Tanh", graph("Add", x_n, graph("Mul", r, h_n)))
    # n + z (h - n) is (1 - z) n + z h with one operation less.
    return {"h": graph("Add", n, graph("Mul", z, graph("Sub", state["h"], n)))}


def _rnn(activation: str) -> "CellGraph":
    def cell(graph: Graph, read: str, state: State, w: Weights) -> State:
        return {"h": graph(activation, graph.read_hidden(state["h"], w.hh, read))}

    return cell


CellGraph = Callable[[Graph, str, State, Weights], State]
STEPS: dict[Cell, CellGraph] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": _rnn("Tanh"),
    "rnn_relu": _rnn("Relu"),
}


def _read_bias(config: ModelConfig, w: Weights) -> Tensor:
    # The GRU's second bias stays inside its reset gate; the others' are simply added.
    return w.bias_ih if config.cell == "gru" else w.bias_ih + w.bias_hh


def _first_product(graph: Graph, network: Network, weights: Weights) -> str:
    """W x + b of the first layer [B, G H]; for a small vocabulary it is looked up."""
    embedding, bias = network.embedding, _read_bias(network.config, weights)
    if embedding is not None and embedding.num_embeddings <= TABLE_VOCABULARY:
        table = embedding.weight @ weights.ih.T + bias  # [V, G H]
        return graph("Gather", graph.constant(table), "x")
    return graph.affine(_encode(graph, network, "x"), weights.ih, bias)


def chunk_graph(network: Network) -> bytes:
    """(x [B, T, D] or [B, T], lengths [B] int32, rows [B, width]) -> (y [B, T, O], new_rows).

    Made of onnxruntime's own recurrent operators, which know no projection; padding of x must
    be blank, and outputs in the padding are to be blanked.
    """
    graph, config = Graph(), network.config
    states = _split_rows(graph, network)
    tokens = config.takes_tokens
    values = graph("Transpose", "x", perm=[1, 0] if tokens else [1, 0, 2])
    values = _encode(graph, network, values)  # [T, B, D]
    for layer, state in enumerate(states):
        hidden, after = _operator(graph, network, layer, values, state)  # [T, dirs, B, H]
        values = _merge(graph, config, hidden, [0, 2, 1, 3])  # [T, B, H], or [T, B, 2 H]
        # [dirs, B, H] -> [B, dirs H], the order of a row
        state |= {n: _merge(graph, config, v, [1, 0, 2]) for n, v in after.items()}
    hidden = graph("Transpose", values, perm=[1, 0, 2])
    y = _decode(graph, network, hidden, 3)
    outputs = {"y": y, "new_rows": _join_rows(graph, network, states)}
    return graph.model(_inputs(network, ["B", "T"], lengths=True), outputs)


def _operator(
    graph: Graph, network: Network, layer: int, values: str, state: State
) -> tuple[str, State]:
    config, kind = network.config, network.config.cell
    directions = [network.weights(layer, b) for b in (False, True)[: config.directions]]

    def stacked(name: str) -> Tensor:  # [dirs, G H, ..] in the operator's order of gates
        return torch.stack([_reorder(getattr(w, name), ONNX_ORDER[kind]) for w in directions])

    bias = torch.cat([stacked("bias_ih"), stacked("bias_hh")], dim=1)
    before = [_divide(graph, config, v) for v in state.values()]  # [dirs, B, H] each
    attributes: dict[str, Any] = {"hidden_size": config.hidden_size}
    if config.bidirectional:
        attributes["direction"] = "bidirectional"
    if kind == "gru":
        attributes["linear_before_reset"] = 1
    if kind.startswith("rnn_"):
        name = kind.removeprefix("rnn_").capitalize()
        attributes["activations"] = [name] * config.directions
    weights = [graph.constant(t) for t in (stacked("ih"), stacked("hh"), bias)]
    hidden, *after = graph.many(
        OPERATORS[kind], 1 + len(state), values, *weights, "lengths", *before, **attributes
    )
    return hidden, dict(zip(state, after, strict=True))


def _reorder(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    gates = weight.chunk(len(order))
    return torch.cat([gates[i] for i in order])


def _divide(graph: Graph, config: ModelConfig, piece: str) -> str:
    """[B, dirs H] -> [dirs, B, H]."""
    if not config.bidirectional:
        return graph("Unsqueeze", piece, graph.constant([0]))
    shaped = graph("Reshape", piece, graph.constant([0, 2, config.hidden_size]))
    return graph("Transpose", shaped, perm=[1, 0, 2])


def _merge(graph: Graph, config: ModelConfig, value: str, order: list[int]) -> str:
    """[.., dirs, B, H] -> [.., B, dirs H]."""
    axis = len(order) - 3
    if not config.bidirectional:
        return graph("Squeeze", value, graph.constant([axis]))
    turned = graph("Transpose", value, perm=order)
    return graph("Reshape", turned, graph.constant([0] * (axis + 1) + [2 * config.hidden_size]))


def _encode(graph: Graph, network: Network, x: str) -> str:
    if network.embedding is not None:
        return graph("Gather", graph.constant(network.embedding.weight), x)
    if network.config.normalization:
        centred = graph("Sub", x, graph.constant(network.mean))
        return graph("Div", centred, graph.constant(network.std))
    return x


def _decode(graph: Graph, network: Network, hidden: str, dimensions: int) -> str:
    """The outputs; x and the hidden states have so many dimensions."""
    y = hidden
    if network.head is not None:
        product = graph("MatMul", hidden, graph.constant(network.head.weight.T))
        y = graph("Add", product, graph.constant(network.head.bias))
    if network.config.output_normalization:
        scaled = graph("Mul", y, graph.constant(network.output_std))
        y = graph("Add", scaled, graph.constant(network.output_mean))
    if isinstance(head := network.config.head, Linear) and head.residual:
        read = graph("Slice", "x", *(graph.constant(v) for v in ([0], [head.residual], [-1])))
        tiles = [*[1] * (dimensions - 1), head.size // head.residual]
        y = graph("Add", y, graph("Tile", read, graph.constant(tiles)))
    return y


def _split_rows(graph: Graph, network: Network) -> list[State]:
    """The state of each layer, both directions side by side: [B, dirs H] a tensor."""
    config, specs = network.config, network.schema.tensors
    sizes = [s.size // config.layers for s in specs for _ in range(config.layers)]
    pieces = graph.split("rows", sizes)
    return [
        {s.name: pieces[i * config.layers + layer] for i, s in enumerate(specs)}
        for layer in range(config.layers)
    ]


def _join_rows(graph: Graph, network: Network, states: list[State]) -> str:
    pieces = [state[s.name] for s in network.schema.tensors for state in states]
    return graph("Concat", *pieces, axis=1)


def _inputs(network: Network, shape: list[Any], lengths: bool = False) -> Inputs:
    config = network.config
    inputs: Inputs = {
        "x": (TensorProto.INT64, shape)
        if config.takes_tokens
        else (TensorProto.FLOAT, [*shape, config.input_size])
    }
    if lengths:
        inputs["lengths"] = (TensorProto.INT32, ["B"])
    return inputs | {"rows": (TensorProto.FLOAT, ["B", network.schema.width])}
