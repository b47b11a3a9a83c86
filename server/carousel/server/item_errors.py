"""Item errors: what the items of a message are told that did not run."""

from __future__ import annotations

from collections.abc import Sequence

from carousel.errors import CarouselError, flat_metadata
from carousel.server.varint import varint
from carousel.v1 import inference_service_pb2 as pb

_ERRORS = pb.StepResponse.DESCRIPTOR.fields_by_name["errors"].number
_ITEM = pb.ItemError.DESCRIPTOR.fields_by_name["item"].number
VARINT, BYTES = 0, 2  # wire types


def item_error(item: int, error: CarouselError) -> pb.ItemError:
    return pb.ItemError(
        item=item,
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        metadata=flat_metadata(error),
    )


def refuse_each(request: pb.StepRequest, errors: Sequence[CarouselError]) -> pb.StepResponse:
    """A message of which no item's session could be found: an error for each.

    What several items share is written once, and copied.
    """
    response = _without_outputs(request)
    written: dict[int, pb.ItemError] = {}
    for item, error in enumerate(errors):
        if id(error) not in written:
            written[id(error)] = item_error(item, error)
    response.errors.extend([written[id(error)] for error in errors])
    for item, one in enumerate(response.errors):
        one.item = item
    return response


def refuse(request: pb.StepRequest, error: CarouselError) -> pb.StepResponse:
    """A message whose items are all refused for the same reason; this must cost next to nothing."""
    response = _without_outputs(request)
    response.MergeFromString(_same(error, len(request.handles)))
    return response


def _same(error: CarouselError, count: int) -> bytes:
    """An error for each of so many items, as they are written in a response.

    Only `item` differs from one to the next; to make them as messages costs ten times as much.
    """
    same, fields = item_error(0, error).SerializeToString(), _items(count)
    written, begin = b"", 0
    while begin < count:
        size = len(fields[begin])
        end = 1 << 7 * (size - 1)  # from here on, the field takes a byte more
        head = varint(_ERRORS << 3 | BYTES) + varint(len(same) + size) + same
        written += head.join([b"", *fields[begin:end]])
        begin = end
    return written


_known_items: list[bytes] = []


def _items(count: int) -> list[bytes]:
    """The field `item` of errors, as it is written, for the first so many."""
    for item in range(len(_known_items), count):
        _known_items.append(varint(_ITEM << 3 | VARINT) + varint(item))
    return _known_items[:count]


def _without_outputs(request: pb.StepRequest) -> pb.StepResponse:
    count = len(request.handles)
    indexes = request.step_indexes if len(request.step_indexes) == count else [0] * count
    return pb.StepResponse(handles=request.handles, step_indexes=indexes, lengths=bytes(count))
