"""The byte layout of tensors and snapshots: little-endian, row-major; shared by both ends."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from carousel.errors import TensorMalformed
from carousel.v1 import session_pb2, tensor_pb2

Array = npt.NDArray[Any]

MAX_RANK = 8
MAX_EMPTY = 2**48  # the product of what is not 0 in a shape with a 0: numpy can't have more

_DTYPES: dict[int, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
}
_TYPES = {dtype: number for number, dtype in _DTYPES.items()}


def encode(array: Array) -> tensor_pb2.Tensor:
    """The array as a message; its dtype is one of float16/32/64 and int32/64."""
    data_type = _TYPES.get(array.dtype)
    if data_type is None:
        allowed = ", ".join(sorted(str(dtype) for dtype in _TYPES))
        raise TensorMalformed(f"dtype must be one of {allowed}, got {array.dtype}")
    return tensor_pb2.Tensor(
        data_type=data_type,  # type: ignore[arg-type]
        shape=array.shape,
        data=array.tobytes(),
    )


def decode(tensor: tensor_pb2.Tensor, *, field: str = "tensor") -> Array:
    """The message as a read-only array over its own bytes, without a copy.

    Raises TensorMalformed when type, shape and bytes do not fit together.
    """
    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None:
        allowed = ", ".join(tensor_pb2.DataType.Name(number) for number in _DTYPES)  # type: ignore[arg-type]
        given = tensor.data_type
        raise TensorMalformed(
            f"{field}.data_type must be one of {allowed}, got {given}", field=f"{field}.data_type"
        )
    if len(tensor.shape) > MAX_RANK:
        raise TensorMalformed(
            f"{field}.shape must have at most {MAX_RANK} dimensions, got {len(tensor.shape)}",
            field=f"{field}.shape",
        )
    shape = tuple(tensor.shape)
    expected = math.prod(shape) * dtype.itemsize
    if len(tensor.data) != expected:
        raise TensorMalformed(
            f"{field}.data must be {expected} bytes long for shape {list(shape)} of {dtype}, "
            f"got {len(tensor.data)}",
            field=f"{field}.data",
        )
    if not expected and math.prod(filter(None, shape)) > MAX_EMPTY:
        raise TensorMalformed(
            f"{field}.shape {list(shape)} is of no numbers, and too large", field=f"{field}.shape"
        )
    return np.frombuffer(tensor.data, dtype).reshape(shape)


def snapshot_checksum(snapshot: session_pb2.Snapshot) -> bytes:
    """SHA-256 over the snapshot's content: every field before the checksum but the time.

    Each part is preceded by its length as 8 little-endian bytes, so that no two contents share
    their bytes; numbers are 8 little-endian bytes; of a tensor come name, type, shape and data.
    """
    digest = hashlib.sha256()

    def add(part: bytes) -> None:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    def add_number(number: int) -> None:
        add(number.to_bytes(8, "little"))

    def add_tensor(name: str, tensor: tensor_pb2.Tensor) -> None:
        add(name.encode())
        add_number(tensor.data_type)
        add(np.asarray(tensor.shape, "<u4").tobytes())
        add(tensor.data)

    add_number(snapshot.format_version)
    add(snapshot.model_version.encode())
    add(snapshot.model_digest)
    add_number(snapshot.step_index)
    for named in snapshot.tensors:
        add_tensor(named.name, named.tensor)
    add_number(snapshot.reply_index)
    if snapshot.HasField("reply"):
        add_tensor("reply", snapshot.reply)
    return digest.digest()
