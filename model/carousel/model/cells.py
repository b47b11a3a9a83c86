"""The recurrent cells, one pure function each, and the one loop over time: the reference.

Every faster path is held against these. Shapes: B batch, T time, D input, H hidden, P projection
(P = H where there is none), L layers. The weights have torch's names, shapes and gate order.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from carousel.model.config import Cell

State = dict[str, Tensor]  # "h" [B, P] and, for the LSTM, "c" [B, H]
Gates = dict[str, Tensor]  # every value computed on the way, [B, H] each; "hidden" is [B, P]


class Weights(NamedTuple):
    """One layer in one direction; G is 4 for the LSTM, 3 for the GRU, 1 for the RNN."""

    ih: Tensor  # [G H, D]
    hh: Tensor  # [G H, P]
    bias_ih: Tensor  # [G H]
    bias_hh: Tensor  # [G H]
    hr: Tensor | None = None  # [P, H], the projection of the hidden state


def lstm(x: Tensor, state: State, w: Weights) -> tuple[State, Gates]:
    """One step of the LSTM (Hochreiter & Schmidhuber 1997, forget gate of Gers et al. 2000).

        f_t = sigmoid(W_f x_t + U_f h_{t-1} + b_f)      forget gate
        i_t = sigmoid(W_i x_t + U_i h_{t-1} + b_i)      input gate
        g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)         candidate
        o_t = sigmoid(W_o x_t + U_o h_{t-1} + b_o)      output gate
        c_t = f_t * c_{t-1} + i_t * g_t                 cell state
        h_t = o_t * tanh(c_t)                           hidden state

    The cell state is added to, never multiplied by a matrix: along it dc_t / dc_{t-1} = f_t, so
    while the forget gate is near 1 a gradient comes back over hundreds of steps without
    vanishing or exploding. That path is the constant error carousel. With a projection
    h_t = W_r (o_t * tanh(c_t)).
    """
    h, c = state["h"], state["c"]  # [B, P], [B, H]
    z = linear(x, w.ih, w.bias_ih) + linear(h, w.hh, w.bias_hh)  # [B, 4 H]
    z_i, z_f, z_g, z_o = z.chunk(4, dim=1)  # [B, H] each, torch's order
    f = torch.sigmoid(z_f)
    i = torch.sigmoid(z_i)
    g = torch.tanh(z_g)
    o = torch.sigmoid(z_o)
    c = f * c + i * g  # [B, H]
    h = o * torch.tanh(c)  # [B, H]
    if w.hr is not None:
        h = linear(h, w.hr)  # [B, P]
    gates = {"forget": f, "input": i, "candidate": g, "output": o, "cell": c, "hidden": h}
    return {"h": h, "c": c}, gates


def gru(x: Tensor, state: State, w: Weights) -> tuple[State, Gates]:
    """One step of the GRU (Cho et al. 2014), in the variant of torch and cuDNN.

        r_t = sigmoid(W_r x_t + U_r h_{t-1} + b_r)                  reset gate
        z_t = sigmoid(W_z x_t + U_z h_{t-1} + b_z)                  update gate
        n_t = tanh(W_n x_t + b_n + r_t * (U_n h_{t-1} + d_n))       candidate
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}                       hidden state

    The reset gate acts after the product with U_n ("linear before reset"), unlike in the paper.
    The update gate does what the LSTM's forget gate does: while z_t is near 1, h_t is h_{t-1}
    and the gradient passes unchanged.
    """
    h = state["h"]  # [B, H]
    x_r, x_z, x_n = linear(x, w.ih, w.bias_ih).chunk(3, dim=1)  # [B, H] each
    h_r, h_z, h_n = linear(h, w.hh, w.bias_hh).chunk(3, dim=1)  # [B, H] each
    r = torch.sigmoid(x_r + h_r)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    h = (1 - z) * n + z * h  # [B, H]
    return {"h": h}, {"reset": r, "update": z, "candidate": n, "hidden": h}


def rnn_tanh(x: Tensor, state: State, w: Weights) -> tuple[State, Gates]:
    """One step of the simple recurrent network (Elman 1990): h_t = tanh(W x_t + U h_{t-1} + b).

    The gradient passes through U at every step, so it shrinks or grows geometrically with time.
    """
    h = torch.tanh(linear(x, w.ih, w.bias_ih) + linear(state["h"], w.hh, w.bias_hh))  # [B, H]
    return {"h": h}, {"hidden": h}


def rnn_relu(x: Tensor, state: State, w: Weights) -> tuple[State, Gates]:
    """As `rnn_tanh` with a rectifier: h_t = max(0, W x_t + U h_{t-1} + b)."""
    h = torch.relu(linear(x, w.ih, w.bias_ih) + linear(state["h"], w.hh, w.bias_hh))  # [B, H]
    return {"h": h}, {"hidden": h}


Step = Callable[[Tensor, State, Weights], tuple[State, Gates]]
STEPS: dict[Cell, Step] = {"lstm": lstm, "gru": gru, "rnn_tanh": rnn_tanh, "rnn_relu": rnn_relu}


def scan(
    step: Step,
    x: Tensor,
    state: State,
    weights: Weights,
    mask: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State, list[Gates]]:
    """Run one layer over time: x [B, T, D] -> hidden [B, T, P], last state, gates of each step.

    Where mask [B, T] is False the state stays as it was, so padding changes nothing, whichever
    way time runs.
    """
    times = range(x.shape[1])
    inputs = x.unbind(dim=1)  # once: backward through x[:, t] costs T for each of T steps
    hidden: list[Tensor] = []
    seen: list[Gates] = []
    for t in reversed(times) if reverse else times:
        new, gates = step(inputs[t], state, weights)
        if mask is not None:
            real = mask[:, t, None]  # [B, 1]
            new = {name: torch.where(real, new[name], state[name]) for name in state}
        state = new
        hidden.append(state["h"])
        seen.append(gates)
    if reverse:
        hidden.reverse()
        seen.reverse()
    return torch.stack(hidden, dim=1), state, seen
