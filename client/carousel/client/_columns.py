"""Columns: the items of many sessions in one message, and its answers taken apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from carousel import tensors
from carousel.client._cursor import Cursor, Item
from carousel.client._inputs import Floats, fill_tensor
from carousel.errors import CarouselError, InternalError, from_parts
from carousel.v1 import inference_service_pb2 as pb

Outcome = Floats | CarouselError

MAX_ITEMS = 16_384
MAX_BYTES = 16 * 2**20
"""A message of more is split: the server's limits are 65,536 items and 64 MiB."""


def fill(request: pb.StepRequest, cursors: Sequence[Cursor], items: Sequence[Item]) -> None:
    """Put items of one width, mode and priority, one for each cursor, into an empty message."""
    request.handles.extend([cursor.handle for cursor in cursors])
    request.step_indexes.extend([cursor.index for cursor in cursors])
    lengths = [item.steps for item in items]
    steps = sum(lengths)
    if steps != len(items):
        request.lengths.extend(lengths)
    data = b"".join([item.data for item in items])
    fill_tensor(request.inputs, items[0].width, steps, data)
    request.output_mode = items[0].mode  # type: ignore[assignment]
    request.priority = cursors[0].priority  # type: ignore[assignment]


def fill_item(request: pb.StepRequest, item: Item) -> None:
    """Put the one item of a message whose handle and index are set."""
    request.lengths.append(item.steps)
    fill_tensor(request.inputs, item.width, item.steps, item.data)
    request.output_mode = item.mode  # type: ignore[assignment]


def split(items: Sequence[Item]) -> list[slice]:
    """Where to cut a batch into messages that are not too large."""
    total = sum([len(item.data) for item in items])
    if len(items) <= MAX_ITEMS and total <= MAX_BYTES:
        return [slice(0, len(items))]
    cuts, begin, size = [], 0, 0
    for place, item in enumerate(items):
        if place > begin and (place - begin == MAX_ITEMS or size + len(item.data) > MAX_BYTES):
            cuts.append(slice(begin, place))
            begin, size = place, 0
        size += len(item.data)
    return [*cuts, slice(begin, len(items))]


def outputs_of(response: pb.StepResponse) -> Floats:
    """All rows of a message: [rows, O]."""
    if not response.HasField("outputs"):
        return np.zeros((0, 0), np.float32)
    outputs = tensors.decode(response.outputs, field="outputs")
    if outputs.ndim != 2 or outputs.dtype != np.float32:
        raise InternalError(f"outputs must be float32 [rows, O], got {list(outputs.shape)}")
    return outputs


def outcomes(response: pb.StepResponse) -> list[Outcome]:
    """What became of each item: its rows [n, O] in memory of their own, or its error."""
    outputs = outputs_of(response)
    failed = {error.item: _error(error) for error in response.errors}
    lengths: Sequence[int] = response.lengths or [1] * len(response.handles)
    found: list[Outcome] = []
    begin = 0
    for item, length in enumerate(lengths):
        rows = outputs[begin : begin + length].copy()
        begin += length
        found.append(failed.get(item, rows))
    if begin != len(outputs) or len(found) != len(response.handles):
        raise InternalError(f"{len(found)} answers have {begin} rows, {len(outputs)} came")
    return found


def settle(cursor: Cursor, item: Item, response: pb.StepResponse, place: int) -> None:
    """An item is done; take note of what its answer says besides."""
    cursor.succeed(item, response.durable_indexes[place] if response.durable_indexes else 0)
    if response.HasField("expire_time"):
        cursor.expires = expiry(response)


def expiry(response: pb.StepResponse) -> float:
    return response.expire_time.seconds + response.expire_time.nanos / 1e9


def _error(error: pb.ItemError) -> CarouselError:
    return from_parts(error.code, error.reason, error.message, error.metadata)
