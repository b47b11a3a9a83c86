"""What follows the products of a step, in eager torch: gates, cell update, hidden state.

Numbers are float32 whatever the products are in. Shapes: B batch, H hidden, G gates.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# z [B, 4 H], bias [4 H], c [B, H]; the new h and c are written into the last two, [B, H].
LstmGates = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]
# Of x and of h: z [B, 3 H], bias [3 H]; h [B, H]; the new h is written into the last, [B, H].
GruGates = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]


class Gates(NamedTuple):
    """One way to compute them; the bias is float32, tensors may be parts of wider rows."""

    name: str
    lstm: LstmGates
    gru: GruGates


def lstm(z: Tensor, bias: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor) -> None:
    hidden = c.shape[1]
    z = z + bias
    i, f = z[:, : 2 * hidden].sigmoid().chunk(2, dim=1)
    g, o = z[:, 2 * hidden : 3 * hidden].tanh(), z[:, 3 * hidden :].sigmoid()
    torch.addcmul(f * c, i, g, out=new_c)
    torch.mul(o, new_c.tanh(), out=new_h)


def gru(
    read: Tensor, kept: Tensor, read_bias: Tensor, kept_bias: Tensor, h: Tensor, new_h: Tensor
) -> None:
    hidden = h.shape[1]
    read, kept = read + read_bias, kept + kept_bias
    r, z = (read[:, : 2 * hidden] + kept[:, : 2 * hidden]).sigmoid().chunk(2, dim=1)
    n = torch.addcmul(read[:, 2 * hidden :], r, kept[:, 2 * hidden :]).tanh()
    torch.lerp(n, h, z, out=new_h)


TORCH = Gates("torch", lstm, gru)


def gates_for(device: torch.device) -> Gates:
    """One Triton kernel on a GPU, where Triton is installed, as it is with torch for CUDA."""
    if device.type == "cuda":
        try:
            from carousel.model.kernels.triton_gates import TRITON
        except ModuleNotFoundError:
            return TORCH
        return TRITON
    return TORCH
