"""Inputs: what a caller hands over, as the bytes that travel.

Whole numbers alone are tokens; all else is features. The width of an input is its features per
step, and 0 for tokens: inputs of one width can share a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from carousel.errors import ChunkTooLong, InputMismatch, TokenOutOfRange
from carousel.v1 import tensor_pb2

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Input = npt.ArrayLike

TOKENS = 0

_FLOAT32 = np.dtype("<f4")
_INT64 = np.dtype("<i8")


def step_input(x: Input) -> tuple[int, bytes]:
    """One step: width and bytes of a token, of [D] features, or of the only feature."""
    if type(x) is np.ndarray and x.dtype is _FLOAT32 and x.ndim == 1:
        return x.shape[0], x.tobytes()
    if isinstance(x, int):
        return TOKENS, _token(x)
    array = _array(x)
    if array.ndim == 0:
        return (TOKENS, _token(int(array))) if array.dtype.kind in "iu" else (1, _floats(array))
    if array.ndim != 1 or not array.size:
        raise InputMismatch(
            f"a step takes one token or [D] features, got shape {list(array.shape)}", field="inputs"
        )
    return array.shape[0], _floats(array)


def chunk_input(xs: Input) -> tuple[int, int, bytes]:
    """Several steps: width, steps and bytes of [T] tokens, [T, D] features, or [T] of the only."""
    array = _array(xs)
    if not array.size and array.ndim in (1, 2):
        raise ChunkTooLong("a chunk has at least 1 step, got 0", field="inputs")
    if array.ndim == 1 and array.dtype.kind in "iu":
        return TOKENS, len(array), _tokens(array)
    if array.ndim == 1:
        return 1, len(array), _floats(array)
    if array.ndim != 2:
        raise InputMismatch(
            f"several steps are [T] tokens or [T, D] features, got shape {list(array.shape)}",
            field="inputs",
        )
    return array.shape[1], len(array), _floats(array)


def sequence_inputs(xs: Sequence[Input] | Array) -> tuple[list[int], tensor_pb2.Tensor]:
    """Whole sequences of one width: their lengths, and all of their steps in one tensor."""
    chunks = [chunk_input(x) for x in xs]
    if not chunks:
        raise InputMismatch("there must be at least 1 sequence, got 0", field="inputs")
    width = chunks[0][0]
    for place, (other, _, _) in enumerate(chunks):
        if other != width:
            raise InputMismatch(
                f"all sequences must be alike: the first has {_width(width)}, "
                f"number {place} has {_width(other)}",
                field="inputs",
            )
    lengths = [steps for _, steps, _ in chunks]
    return lengths, input_tensor(width, sum(lengths), b"".join([data for _, _, data in chunks]))


def input_tensor(width: int, steps: int, data: bytes) -> tensor_pb2.Tensor:
    tensor = tensor_pb2.Tensor()
    fill_tensor(tensor, width, steps, data)
    return tensor


def fill_tensor(tensor: tensor_pb2.Tensor, width: int, steps: int, data: bytes) -> None:
    """Tokens [steps] or features [steps, width], in place."""
    if width == TOKENS:
        tensor.data_type = tensor_pb2.DATA_TYPE_INT64
        tensor.shape.append(steps)
    else:
        tensor.data_type = tensor_pb2.DATA_TYPE_FLOAT32
        tensor.shape.extend((steps, width))
    tensor.data = data


def _array(x: Input) -> npt.NDArray[Any]:
    try:
        array = np.asarray(x)
    except ValueError as error:  # a ragged list
        raise InputMismatch(f"inputs must be an array: {error}", field="inputs") from error
    if array.dtype.kind not in "iufb":
        raise InputMismatch(f"inputs must be numbers, got {array.dtype}", field="inputs")
    return array


def _floats(array: npt.NDArray[Any]) -> bytes:
    with np.errstate(over="ignore"):  # the server refuses the infinity that comes of it
        return array.astype(_FLOAT32).tobytes()


def _tokens(array: npt.NDArray[Any]) -> bytes:
    if array.dtype.kind == "u" and int(array.max()) >= 2**63:
        raise TokenOutOfRange(f"a token must be below 2**63, got {array.max()}", field="inputs")
    return array.astype(_INT64).tobytes()


def _token(token: int) -> bytes:
    try:
        return token.to_bytes(8, "little", signed=True)
    except OverflowError:
        raise TokenOutOfRange(f"a token must be below 2**63, got {token}", field="inputs") from None


def _width(width: int) -> str:
    return f"{width} features" if width else "tokens"
