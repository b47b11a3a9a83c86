"""The oracle: an LSTM in float64 numpy, written from the six equations, one session at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class State:
    """Hidden and cell state, [L, H] each."""

    h: Array
    c: Array


class Oracle:
    """A model of features with an LSTM and a linear head, read from its weights."""

    def __init__(self, folder: Path) -> None:
        weights: dict[str, npt.NDArray[Any]] = load_file(folder / "weights.safetensors")
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}
        self.layers = sum("weight_hh" in name for name in self.weights)
        self.hidden = self.weights["rnn.weight_hh_l0"].shape[1]

    @property
    def initial(self) -> State:
        zero = np.zeros((self.layers, self.hidden))
        return State(zero, zero)

    def step(self, x: npt.NDArray[np.floating[Any]], state: State) -> tuple[Array, State]:
        """One step of one session: x [D], gives y [O] and the new state."""
        value = x.astype(np.float64)
        h, c = [], []
        for layer in range(self.layers):
            w = {
                kind: self.weights[f"rnn.{kind}_l{layer}"]
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            gates = w["weight_ih"] @ value + w["bias_ih"]
            gates += w["weight_hh"] @ state.h[layer] + w["bias_hh"]
            i, f, g, o = np.split(gates, 4)  # torch's order
            cell = sigmoid(f) * state.c[layer] + sigmoid(i) * np.tanh(g)
            value = sigmoid(o) * np.tanh(cell)
            h.append(value)
            c.append(cell)
        y = self.weights["head.weight"] @ value + self.weights["head.bias"]
        return y, State(np.stack(h), np.stack(c))

    def run(self, xs: npt.NDArray[np.floating[Any]], state: State) -> tuple[Array, list[State]]:
        """Several steps: xs [T, D] gives outputs [T, O] and the state after each."""
        outputs, states = [], []
        for x in xs:
            y, state = self.step(x, state)
            outputs.append(y)
            states.append(state)
        return np.stack(outputs), states


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))
