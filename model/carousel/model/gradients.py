"""How far a gradient travels back through a network: its norm at every lag, in every layer.

Shapes: B batch, T time (the window), D input, H hidden, P hidden after projection, O output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from carousel.model.cells import Gates, Weights
from carousel.model.errors import ModelError
from carousel.model.network import Network

FADED = 0.01  # of the norm at lag 0: what lies under it is the horizon
FAR_SHORT = 4  # a horizon under the window's length divided by this has vanished
GROWN = 100.0  # times the norm at lag 0: what lies over it has exploded
KEEPING_GATE = {"lstm": "forget", "gru": "update"}  # the gate that decides what stays
CANDIDATE = {"lstm": 2, "gru": 2}  # its block in torch's order of the gates


@dataclass(frozen=True, slots=True)
class LayerGradients:
    """How the gradient travels back through time in one layer; fields as in the proto.

    Norms are by lag: index 0 is the last step of the window. `cell_norms` is empty, and
    `forget_mean` None, where the cell has no such thing. Of an LSTM `horizon` is the longer of
    those of h and c, since either can bring the gradient back.
    """

    layer: int
    hidden_norms: tuple[float, ...]
    cell_norms: tuple[float, ...]
    horizon: int
    forget_mean: float | None
    forget_histogram: tuple[float, ...]
    spectral_radius: float

    def __post_init__(self) -> None:
        if not 0 <= self.horizon <= len(self.hidden_norms):
            raise ModelError(
                f"horizon must be between 0 and the {len(self.hidden_norms)} steps of the window, "
                f"got {self.horizon}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, norms to six digits; without `forget_mean` where there is none."""
        given = {
            "layer": self.layer,
            "hidden_norms": [_short(norm) for norm in self.hidden_norms],
            "cell_norms": [_short(norm) for norm in self.cell_norms],
            "horizon": self.horizon,
            "forget_mean": self.forget_mean,
            "forget_histogram": list(self.forget_histogram),
            "spectral_radius": self.spectral_radius,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class GradientFlow:
    """The gradients of a window; fields as in the proto, without the step."""

    layers: tuple[LayerGradients, ...]
    vanishing: bool
    exploding: bool
    clipped_ratio: float
    verdict: str

    def __post_init__(self) -> None:
        if not 0 <= self.clipped_ratio <= 1:
            raise ModelError(f"clipped_ratio must be between 0 and 1, got {self.clipped_ratio}")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as it stands in a job's events."""
        return {
            "layers": [layer.to_dict() for layer in self.layers],
            "vanishing": self.vanishing,
            "exploding": self.exploding,
            "clipped_ratio": self.clipped_ratio,
            "verdict": self.verdict,
        }


def diagnose(
    network: Network,
    x: Tensor,
    rows: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    *,
    clipped_ratio: float = 0.0,
) -> GradientFlow:
    """Look at the gradients of x [B, T, D] or tokens [B, T] from rows [B, width].

    loss_of takes the outputs [B, T, O] and gives a scalar; it should read the last step alone,
    or the last few, so that a lag is a distance in time. The gradients are total derivatives
    dL/dh_t and dL/dc_t, through all later steps and higher layers; a norm is taken for each row
    and averaged over the rows. It runs the reference step by step, without dropout: four rows of
    4,096 steps are seconds. Of a bidirectional network the forward direction is shown. Norms past
    float32, or not numbers, are given as the largest float32. Weights and their gradients stay as
    they are. ModelError where x has no steps.
    """
    if x.shape[1] == 0:
        raise ModelError("a window must have at least 1 step, got 0")
    training = network.training
    network.eval()
    try:
        with torch.enable_grad():
            # The rows carry the graph even where every weight is frozen.
            y, _, seen = network.unroll(x, rows.detach().clone().requires_grad_())
            loss = loss_of(y)
    finally:
        network.train(training)
    seen = seen[:: network.config.directions]
    names = ("hidden", "cell") if network.config.cell == "lstm" else ("hidden",)
    states = [step[name] for gates in seen for name in names for step in gates]
    found = torch.autograd.grad(loss, states, materialize_grads=True, allow_unused=True)
    norms = iter(torch.stack([g.norm(dim=1).mean() for g in found]).view(-1, x.shape[1]))
    layers = tuple(
        _layer(network, index, gates, {name: next(norms) for name in names})
        for index, gates in enumerate(seen)
    )
    return _judge(layers, clipped_ratio)


def horizon(norms: tuple[float, ...]) -> int:
    """Steps back until a norm is under 1 % of that at lag 0; their number if none is."""
    return next((lag for lag, n in enumerate(norms) if n < FADED * norms[0] or n == 0), len(norms))


def spectral_radius(network: Network, layer: int) -> float:
    """The largest absolute eigenvalue of what a layer's hidden state is multiplied by at a step.

    Of an LSTM or GRU that is the candidate's block, before any gate; with a projection the product
    of both matrices. It takes about a second for 1,024 units.
    """
    w: Weights = network.weights(layer)
    h = w.hh.shape[0] // {"lstm": 4, "gru": 3}.get(network.config.cell, 1)
    block = CANDIDATE.get(network.config.cell, 0)
    matrix = w.hh.detach()[block * h : (block + 1) * h].double().cpu()  # [H, P]
    if w.hr is not None:
        matrix = w.hr.detach().double().cpu() @ matrix  # [P, P]
    if not matrix.isfinite().all():
        return torch.finfo(torch.float32).max
    return float(torch.linalg.eigvals(matrix).abs().max())


def _layer(
    network: Network, index: int, gates: list[Gates], norms: dict[str, Tensor]
) -> LayerGradients:
    by_lag = {name: _finite(values).flip(0).tolist() for name, values in norms.items()}
    hidden, cell = tuple(by_lag["hidden"]), tuple(by_lag.get("cell", ()))
    keep = KEEPING_GATE.get(network.config.cell)
    values = torch.stack([g[keep].detach() for g in gates]) if keep else None  # [T, B, H]
    return LayerGradients(
        layer=index,
        hidden_norms=hidden,
        cell_norms=cell,
        horizon=max(horizon(hidden), horizon(cell) if cell else 0),
        forget_mean=None if values is None else float(_finite(values.mean())),
        forget_histogram=() if values is None else _tenths(values),
        spectral_radius=spectral_radius(network, index),
    )


def _judge(layers: tuple[LayerGradients, ...], clipped_ratio: float) -> GradientFlow:
    window = len(layers[0].hidden_norms)
    farthest = max(layer.horizon for layer in layers)
    grown, lag, where = max(
        (norm / norms[0] if norms[0] else 0.0, lag, layer.layer)
        for layer in layers
        for norms in (layer.hidden_norms, layer.cell_norms)
        for lag, norm in enumerate(norms)
    )
    largest = max(layer.hidden_norms[0] for layer in layers)
    exploding = grown > GROWN or largest >= torch.finfo(torch.float32).max
    vanishing = farthest < window / FAR_SHORT
    if exploding and grown > GROWN:
        verdict = f"The gradient explodes: {lag} steps back it is {grown:.2g} times as large"
        verdict += f" in layer {where}"
    elif exploding:
        verdict = "The gradient explodes: it is not a finite number"
    elif vanishing:
        verdict = f"The gradient vanishes: in every layer it is under 1 % after {farthest}"
        verdict += f" of {window} steps"
    elif farthest < window:
        verdict = f"The gradient reaches back {farthest} of {window} steps"
    else:
        verdict = f"The gradient reaches back over all {window} steps"
    if clipped_ratio > 0:
        verdict += f"; {100 * clipped_ratio:.0f} % of the updates were clipped"
    return GradientFlow(layers, vanishing, exploding, clipped_ratio, verdict + ".")


def _finite(values: Tensor) -> Tensor:
    largest = torch.finfo(torch.float32).max
    return torch.nan_to_num(values, nan=largest, posinf=largest).clamp(max=largest)


def _tenths(values: Tensor) -> tuple[float, ...]:
    tenths = (values.nan_to_num() * 10).long().clamp(0, 9).flatten()
    shares = torch.bincount(tenths, minlength=10).double() / tenths.numel()
    return tuple(shares.tolist())


def _short(value: float) -> float:
    return float(f"{value:.6g}")
