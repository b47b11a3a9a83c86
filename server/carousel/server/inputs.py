"""Inputs: the numbers of a message as the model takes them, and what can be wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from carousel import tensors
from carousel.errors import CarouselError, InputMismatch, NonFiniteInput, TokenOutOfRange
from carousel.server.work import Inputs, Ints
from carousel.v1 import tensor_pb2

if TYPE_CHECKING:
    from carousel.server.loaded import LoadedVersion

Refusals = list[tuple[int, CarouselError]]


def read_inputs(tensor: tensor_pb2.Tensor, version: LoadedVersion, steps: int) -> Inputs:
    """Features [steps, D] as float32 or tokens [steps] as int64, as the model takes them."""
    array = tensors.decode(tensor, field="inputs")
    takes_tokens = version.config.takes_tokens
    kind = "iu" if takes_tokens else "f"
    if array.dtype.kind not in kind:
        wanted = "INT32 or INT64 tokens" if takes_tokens else "FLOAT32, FLOAT64 or FLOAT16 features"
        raise InputMismatch(
            f"{version.name} takes {wanted}, got {array.dtype}", field="inputs.data_type"
        )
    shape = (steps, *version.input_shape)
    if array.shape != shape:
        raise InputMismatch(
            f"inputs must have shape {list(shape)} for {steps} steps of {version.name}, "
            f"got {list(array.shape)}",
            field="inputs.shape",
        )
    if takes_tokens:
        return array.astype(np.int64, copy=False)
    if array.dtype == np.float32:
        return array
    with np.errstate(over="ignore"):  # a float64 that does not fit becomes infinite: refused next
        return array.astype(np.float32, copy=False)


def read_one(tensor: tensor_pb2.Tensor, version: LoadedVersion) -> Inputs:
    """The inputs of one step, as `read_inputs` gives them; the shortest way for what is usual."""
    if (
        tensor.data_type == version.wire_type
        and len(tensor.data) == version.input_bytes
        and tuple(tensor.shape) == version.one_input
    ):
        one: Inputs = np.frombuffer(tensor.data, version.input_dtype).reshape(version.one_input)
        return one
    return read_inputs(tensor, version, 1)


def are_good(inputs: Inputs, version: LoadedVersion) -> bool:
    """Whether every token is in the vocabulary, or every feature finite."""
    if version.config.takes_tokens:
        good = (inputs >= 0) & (inputs < version.vocabulary)
    else:
        good = np.isfinite(inputs)
    return bool(np.count_nonzero(good) == good.size)


def bad_inputs(inputs: Inputs, version: LoadedVersion, lengths: Ints | None) -> Refusals:
    """Items with a token out of range or a number that is not finite."""
    if are_good(inputs, version):
        return []
    if version.config.takes_tokens:
        good = (inputs >= 0) & (inputs < version.vocabulary)
    else:
        good = np.isfinite(inputs)
    bad_steps = np.flatnonzero(~good.reshape(len(good), -1).all(axis=1))
    items = bad_steps
    if lengths is not None:
        items = np.searchsorted(np.cumsum(lengths), bad_steps, "right")
    return [
        (item, _bad_input(inputs[step], version, item, step))
        for step, item in reversed(list(zip(bad_steps.tolist(), items.tolist(), strict=True)))
    ]


def _bad_input(
    value: np.generic | Inputs, version: LoadedVersion, item: int, step: int
) -> CarouselError:
    if version.config.takes_tokens:
        return TokenOutOfRange(
            f"tokens of {version.name} are 0 to {version.vocabulary - 1}, "
            f"got {int(value)} in item {item}",
            field=f"inputs[{step}]",
        )
    flat = np.atleast_1d(value)
    place = int(np.flatnonzero(~np.isfinite(flat))[0])
    return NonFiniteInput(
        f"inputs must be finite, got {flat[place]} as feature {place} of item {item}",
        field=f"inputs[{step}][{place}]",
    )
