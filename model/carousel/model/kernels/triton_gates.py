"""What follows the products of a step, in one Triton kernel a layer: read once, written once.

With TRITON_INTERPRET=1, set before this is imported, the same kernels run on a CPU.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from carousel.model.kernels.gates import Gates

BLOCK = 256  # units of one program
_BLOCK = tl.constexpr(BLOCK)  # the only kind of global that a kernel may read


@triton.jit  # type: ignore[untyped-decorator]
def _tanh(x: Any) -> Any:
    # Triton's own tanh is a call of CUDA's library, which the interpreter has not.
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit  # type: ignore[untyped-decorator]
def _sum(z: Any, bias: Any, place: Any, inside: Any) -> Any:
    """One gate's sums in float32, whatever the product is in."""
    return tl.load(z + place, inside, 0.0).to(tl.float32) + tl.load(bias + place, inside, 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _lstm(
    z: Any,
    bias: Any,
    c: Any,
    new_h: Any,
    new_c: Any,
    hidden: Any,
    z_stride: Any,
    c_stride: Any,
    new_h_stride: Any,
    new_c_stride: Any,
) -> None:
    row = tl.program_id(0).to(tl.int64)  # rows x width may pass 2^31
    unit = tl.program_id(1) * _BLOCK + tl.arange(0, _BLOCK)
    inside = unit < hidden
    z += row * z_stride
    i = tl.sigmoid(_sum(z, bias, unit, inside))
    f = tl.sigmoid(_sum(z, bias, hidden + unit, inside))
    g = _tanh(_sum(z, bias, 2 * hidden + unit, inside))
    o = tl.sigmoid(_sum(z, bias, 3 * hidden + unit, inside))
    cell = f * tl.load(c + row * c_stride + unit, inside, 0.0) + i * g
    tl.store(new_c + row * new_c_stride + unit, cell, inside)
    tl.store(new_h + row * new_h_stride + unit, o * _tanh(cell), inside)


@triton.jit  # type: ignore[untyped-decorator]
def _gru(
    read: Any,
    kept: Any,
    read_bias: Any,
    kept_bias: Any,
    h: Any,
    new_h: Any,
    hidden: Any,
    read_stride: Any,
    kept_stride: Any,
    h_stride: Any,
    new_h_stride: Any,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * _BLOCK + tl.arange(0, _BLOCK)
    inside = unit < hidden
    read += row * read_stride
    kept += row * kept_stride
    r = tl.sigmoid(_sum(read, read_bias, unit, inside) + _sum(kept, kept_bias, unit, inside))
    update = hidden + unit
    z = tl.sigmoid(_sum(read, read_bias, update, inside) + _sum(kept, kept_bias, update, inside))
    new = 2 * hidden + unit
    n = _tanh(_sum(read, read_bias, new, inside) + r * _sum(kept, kept_bias, new, inside))
    before = tl.load(h + row * h_stride + unit, inside, 0.0)
    tl.store(new_h + row * new_h_stride + unit, n + z * (before - n), inside)


def lstm(z: Tensor, bias: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor) -> None:
    rows, hidden = c.shape
    strides = (z.stride(0), c.stride(0), new_h.stride(0), new_c.stride(0))
    # Triton launches on the current device.
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        _lstm[_grid(rows, hidden)](z, bias, c, new_h, new_c, hidden, *strides)


def gru(
    read: Tensor, kept: Tensor, read_bias: Tensor, kept_bias: Tensor, h: Tensor, new_h: Tensor
) -> None:
    rows, hidden = h.shape
    given = (read, kept, read_bias, kept_bias, h, new_h)
    strides = (read.stride(0), kept.stride(0), h.stride(0), new_h.stride(0))
    with torch.cuda.device_of(h):  # type: ignore[no-untyped-call]
        _gru[_grid(rows, hidden)](*given, hidden, *strides)


def _grid(rows: int, hidden: int) -> tuple[int, int]:
    return rows, -(-hidden // BLOCK)


TRITON = Gates("triton", lstm, gru)
