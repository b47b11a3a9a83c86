"""Activity: what the gates did in steps that are run again with the reference cells.

Shapes: B riders, T steps of a slice, N steps in all, L layers, H hidden, P projection, O output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from carousel.model import Network
from carousel.model.network import padding_mask, stack_gates
from carousel.server.ride import Brought
from carousel.server.work import Inputs, Ints

Numbers = npt.NDArray[np.float64]

GATES = ("input", "forget", "output", "reset", "update")
SATURATED = 0.05  # a gate so close to 0 or 1 hardly passes a gradient
KEEPS = {"lstm": "forget", "gru": "update"}  # the gate that says how much of the state stays
LONGEST_HORIZON = 1e6  # steps


@dataclass(slots=True, frozen=True)
class Activity:
    """N steps, one rider after the other."""

    values: dict[str, torch.Tensor]  # by name, as in Trace: [N, L, H], `hidden` [N, L, P]
    outputs: torch.Tensor  # [N, O]
    inputs: Inputs  # [N, ...]
    firsts: Ints  # where each rider's steps begin, [B]


@torch.no_grad()
def run_again(network: Network, brought: Brought) -> Activity:
    """The same steps with the reference cells, which show their gates."""
    device = network.weights(0).ih.device
    x, lengths = torch.from_numpy(brought.inputs).to(device), brought.lengths
    if lengths is None:
        x, lengths = x[:, None], np.ones(len(x), np.int64)  # [B, 1, ...]
    even = bool((lengths == x.shape[1]).all())
    cuts = torch.from_numpy(lengths)
    y, _, seen = network.unroll(x, brought.state.to(device), None if even else cuts)
    real = padding_mask(x, cuts)  # [B, T]
    return Activity(
        {name: values[real].cpu() for name, values in stack_gates(seen).items()},
        y[real].cpu(),
        x[real].cpu().numpy(),
        np.cumsum(lengths) - lengths,
    )


def is_saturated(values: torch.Tensor) -> torch.Tensor:
    """Which values of gates are so close to 0 or 1 that they hardly move."""
    return (values < SATURATED) | (values > 1 - SATURATED)


def horizons(kept: torch.Tensor) -> torch.Tensor:
    """After how many steps a unit has lost all but 1 / e, if its gate stays: -1 / ln f.

    At most LONGEST_HORIZON.
    """
    most = math.exp(-1 / LONGEST_HORIZON)
    return -1 / torch.log(kept.double().clamp(max=most))


def surprises(logits: torch.Tensor, tokens: Inputs) -> Numbers:
    """-ln of the probabilities that logits [N, V] gave to tokens [N], in nats."""
    targets = torch.from_numpy(tokens.astype(np.int64, copy=False))
    nats = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    found: Numbers = nats.numpy()
    return found
