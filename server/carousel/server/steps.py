"""Step messages to works, and answers to step messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from carousel.errors import (
    CarouselError,
    ChunkTooLong,
    InvalidField,
    MessageTooLarge,
)
from carousel.server import one_step
from carousel.server.door import Lane
from carousel.server.health_messages import item_notice
from carousel.server.inputs import Refusals, read_inputs, read_one
from carousel.server.item_errors import item_error
from carousel.server.notices import Notice
from carousel.server.work import NEVER, Answer, Floats, Inputs, Ints, Work
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import tensor_pb2

if TYPE_CHECKING:
    from carousel.server.loaded import LoadedVersion

MAX_ITEMS = 65_536

Deliver = Callable[[Answer], None]


def check_columns(request: pb.StepRequest) -> None:
    """Raises InvalidField when the columns do not fit together."""
    count = len(request.handles)
    if not 1 <= count <= MAX_ITEMS:
        raise InvalidField(
            f"handles must have 1 to {MAX_ITEMS} entries, got {count}", field="handles"
        )
    for name, column in (
        ("step_indexes", request.step_indexes),
        ("lengths", request.lengths),
        ("durable_indexes", request.durable_indexes),
    ):
        given = len(column)
        if given != count and (given or name == "step_indexes"):
            raise InvalidField(
                f"{name} must have as many entries as handles, {count}, got {given}", field=name
            )


def decode(
    request: pb.StepRequest,
    version: LoadedVersion,
    deliver: Deliver,
    *,
    lane: Lane,
    max_chunk: int,
    deadline: float = NEVER,
    origin: Mapping[str, str] | None = None,
) -> Work:
    """The work of a message whose columns fit. Items that can't run are in its refusals.

    The values of the inputs are looked at later, for all messages of a turn at once.
    """
    handles = list(request.handles)
    refusals: Refusals = []
    lengths = None
    if request.lengths:
        lengths = np.array(request.lengths, np.int64)
        if lengths.max() == 1 and lengths.min() == 1:
            lengths = None
        else:
            refusals += bad_lengths(lengths, max_chunk)
    if lengths is None and len(handles) == 1:
        inputs = read_one(request.inputs, version)
    else:
        steps = len(handles) if lengths is None else int(lengths.sum())
        inputs = read_inputs(request.inputs, version, steps)
    return Work(
        handles,
        list(request.step_indexes),
        inputs,
        deliver,
        lengths=lengths,
        deadline=deadline,
        arrived=time.monotonic(),
        mode=request.output_mode,
        lane=lane,
        refusals=refusals,
        durables=list(request.durable_indexes),
        origin=origin,
    )


def inputs_of(request: one_step.OneStep, version: LoadedVersion) -> Inputs | None:
    """[1, ...], if they are what the model takes."""
    if request.inputs_head != version.inputs_head:
        return None
    inputs: Inputs = np.frombuffer(request.values, version.input_type)
    return inputs.reshape(version.one_input)


def bad_lengths(lengths: Ints, max_chunk: int) -> Refusals:
    wrong = np.flatnonzero((lengths < 1) | (lengths > max_chunk)).tolist()
    return [
        (
            item,
            ChunkTooLong(
                f"an item must have 1 to {max_chunk} steps, got {lengths[item]}",
                field=f"lengths[{item}]",
            ),
        )
        for item in wrong
    ]


def reply_size(version: LoadedVersion, *, steps: int, items: int) -> int:
    """About; `steps` are those whose outputs are asked for."""
    return steps * version.output_bytes + 64 * items


def check_reply_size(version: LoadedVersion, *, steps: int, items: int, limit: int) -> None:
    """Refuse, before anything runs, what could never be answered in one message."""
    size = reply_size(version, steps=steps, items=items)
    if size > limit:
        raise MessageTooLarge(
            f"the answer with {steps} outputs of {version.name} would have about {size} bytes, "
            f"a message has at most {limit}: send less at once, or ask for fewer outputs",
            field="inputs",
        )


Response = pb.StepResponse | bytes
"""Or its bytes already."""


def encode(answers: Sequence[Answer], *, in_order: bool = False) -> Response:
    """One message for answers of one or more works; `in_order`: by the items' own order."""
    first = answers[0]
    simple = len(answers) == 1 and not first.errors and not first.notices
    if simple and first.work.mode <= pb.OUTPUT_MODE_ALL:
        alone = len(first.items) == 1 and first.lengths is None
        return one_step.write(first) if alone else _encode_whole(first)
    columns = _Columns()
    for answer in answers:
        columns.add(answer)
    return columns.message(in_order=in_order)


def _encode_whole(answer: Answer) -> pb.StepResponse:
    """The common case: one work, nothing failed, all outputs."""
    work, outputs = answer.work, answer.outputs
    handles, indexes = work.handles, work.step_indexes
    if len(answer.items) < len(handles):
        items = answer.items.tolist()
        handles, indexes = [handles[i] for i in items], [indexes[i] for i in items]
    response = pb.StepResponse(
        handles=handles,
        step_indexes=indexes,
        outputs=tensor_pb2.Tensor(
            data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=outputs.shape, data=outputs.tobytes()
        ),
    )
    if answer.lengths is not None:
        response.lengths.extend(answer.lengths.tolist())
    if answer.durable is not None and answer.durable.any():
        response.durable_indexes.extend(answer.durable.tolist())
    _set_time(response, answer.expire_time)
    return response


class _Columns:
    """Answers on their way into one message."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self.handles: list[int] = []
        self.indexes: list[int] = []
        self.outputs: list[Floats] = []  # one entry for each item
        self.errors: list[CarouselError | None] = []
        self.durable: list[int] = []
        self.notices: list[tuple[int, Notice]] = []  # with places in these lists
        self.width = 0
        self.expire_time = NEVER

    def add(self, answer: Answer) -> None:
        self.width = answer.outputs.shape[1]
        first = len(self.items)
        self.expire_time = min(self.expire_time, answer.expire_time)
        begin = 0
        durable = [0] * len(answer.items) if answer.durable is None else answer.durable.tolist()
        for place, item in enumerate(answer.items.tolist()):
            length = 1 if answer.lengths is None else int(answer.lengths[place])
            rows = answer.outputs[begin : begin + length]
            if answer.work.mode == pb.OUTPUT_MODE_LAST:
                rows = rows[-1:]
            elif answer.work.mode == pb.OUTPUT_MODE_NONE:
                rows = rows[:0]
            begin += length
            self._put(answer.work, item, rows, None, durable[place])
        for item, error in answer.errors:
            self._put(answer.work, item, answer.outputs[:0], error, 0)
        if answer.notices:
            places = {item: place for place, item in enumerate(self.items[first:], first)}
            self.notices += [(places[item], notice) for item, notice in answer.notices]

    def _put(
        self, work: Work, item: int, rows: Floats, error: CarouselError | None, durable: int
    ) -> None:
        self.items.append(item)
        self.handles.append(work.handles[item])
        self.indexes.append(work.step_indexes[item])
        self.outputs.append(rows)
        self.errors.append(error)
        self.durable.append(durable)

    def message(self, *, in_order: bool) -> pb.StepResponse:
        order = list(range(len(self.items)))
        if in_order:
            order.sort(key=self.items.__getitem__)
        lengths = [len(self.outputs[place]) for place in order]
        rows = sum(lengths)
        response = pb.StepResponse(
            handles=[self.handles[place] for place in order],
            step_indexes=[self.indexes[place] for place in order],
            lengths=[] if rows == len(order) and set(lengths) == {1} else lengths,
            outputs=tensor_pb2.Tensor(
                data_type=tensor_pb2.DATA_TYPE_FLOAT32,
                shape=(rows, self.width),
                data=b"".join([self.outputs[place].tobytes() for place in order]),
            ),
        )
        if any(self.durable):
            response.durable_indexes.extend([self.durable[place] for place in order])
        for number, place in enumerate(order):
            error = self.errors[place]
            if error is not None:
                response.errors.append(item_error(number, error))
        numbers = {place: number for number, place in enumerate(order)} if self.notices else {}
        response.notices.extend(item_notice(numbers[place], n) for place, n in self.notices)
        _set_time(response, self.expire_time)
        return response


def _set_time(response: pb.StepResponse, seconds: float) -> None:
    if seconds != NEVER:
        response.expire_time.seconds = int(seconds)
        response.expire_time.nanos = int(seconds % 1 * 1e9)
