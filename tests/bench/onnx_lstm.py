"""onnxruntime's LSTM operator as a peer: two layers at T = 1 and the head, in one graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tests.bench.models import INPUT, LAYERS


def session(network: Any) -> Any:
    """Runs (x [1, B, D], h0, c0, h1, c1 [1, B, H] each) -> (y [1, B, O], and the new states)."""
    hidden = network.config.hidden_size
    nodes, constants = [], []

    def constant(name: str, value: Any) -> str:
        array = np.ascontiguousarray(value.detach().numpy())
        constants.append(numpy_helper.from_array(array, name))
        return name

    states = [f"{kind}{layer}" for layer in range(LAYERS) for kind in "hc"]
    below = "x"
    for layer in range(LAYERS):
        w = network.weights(layer)
        # torch's gates are i, f, g, o; the operator's i, o, f, c.
        ih, hh, bias_ih, bias_hh = (
            value.reshape(4, hidden, -1)[[0, 3, 1, 2]].reshape(4 * hidden, -1)
            for value in (w.ih, w.hh, w.bias_ih, w.bias_hh)
        )
        inputs = [
            below,
            constant(f"W{layer}", ih[None]),
            constant(f"R{layer}", hh[None]),
            constant(f"B{layer}", _cat(bias_ih, bias_hh)),
            "",
            f"h{layer}",
            f"c{layer}",
        ]
        outputs = [f"all{layer}", f"new_h{layer}", f"new_c{layer}"]
        nodes.append(helper.make_node("LSTM", inputs, outputs, hidden_size=hidden))
        below = f"new_h{layer}"  # [1, B, H], which is x [T = 1, B, H] of the next layer
    nodes.append(
        helper.make_node("MatMul", [below, constant("head", network.head.weight.T)], ["product"])
    )
    nodes.append(helper.make_node("Add", ["product", constant("b", network.head.bias)], ["y"]))
    graph = helper.make_graph(
        nodes,
        "peer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "B", INPUT])]
        + [helper.make_tensor_value_info(s, TensorProto.FLOAT, [1, "B", hidden]) for s in states],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in ("y", *(f"new_{state}" for state in states))
        ],
        constants,
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _cat(first: Any, second: Any) -> Any:
    import torch

    return torch.cat([first, second]).reshape(1, -1)
