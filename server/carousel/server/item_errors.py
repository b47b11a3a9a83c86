"""Item errors: what the items of a message are told that did not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from carousel.errors import CarouselError, flat_metadata
from carousel.server.varint import varint
from carousel.v1 import inference_service_pb2 as pb

_ERRORS = pb.StepResponse.DESCRIPTOR.fields_by_name["errors"].number
_ITEM = pb.ItemError.DESCRIPTOR.fields_by_name["item"].number
VARINT, BYTES = 0, 2  # wire types

Runs: TypeAlias = Sequence[tuple[CarouselError, int]]
"""Errors of items, and of how many after one another each is."""


def item_error(item: int, error: CarouselError) -> pb.ItemError:
    return pb.ItemError(
        item=item,
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        metadata=flat_metadata(error),
    )


def refuse_runs(request: pb.StepRequest, runs: Runs) -> pb.StepResponse:
    """A message whose items are all refused, so many after one another for the same reason.

    An item must cost next to nothing: whoever guesses handles sends thousands of them.
    """
    response, begin = _without_outputs(request), 0
    for error, count in runs:
        response.MergeFromString(_same(error, begin, begin + count))
        begin += count
    return response


def refuse(request: pb.StepRequest, error: CarouselError) -> pb.StepResponse:
    """A message whose items are all refused for the same reason."""
    return refuse_runs(request, [(error, len(request.handles))])


def _same(error: CarouselError, begin: int, end: int) -> bytes:
    """An error for each of these items, as they are written in a response.

    Only `item` differs from one to the next; to make them as messages costs ten times as much.
    """
    if begin == end:
        return b""
    same, fields = item_error(0, error).SerializeToString(), _items(end)
    written = b""
    while begin < end:
        size = len(fields[begin])
        longer = min(end, 1 << 7 * (size - 1))  # from here on, the field takes a byte more
        head = varint(_ERRORS << 3 | BYTES) + varint(len(same) + size) + same
        written += head.join([b"", *fields[begin:longer]])
        begin = longer
    return written


_known_items: list[bytes] = []


def _items(count: int) -> list[bytes]:
    """The field `item` of errors, as it is written, for the first so many at least."""
    for item in range(len(_known_items), count):
        _known_items.append(varint(_ITEM << 3 | VARINT) + varint(item))
    return _known_items


def _without_outputs(request: pb.StepRequest) -> pb.StepResponse:
    count = len(request.handles)
    indexes = request.step_indexes if len(request.step_indexes) == count else [0] * count
    return pb.StepResponse(handles=request.handles, step_indexes=indexes, lengths=bytes(count))
