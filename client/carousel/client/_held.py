"""Held states: steps of states that the caller keeps; alike for both clients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from carousel import tensors
from carousel.client._call import Call
from carousel.client._columns import MAX_BYTES
from carousel.client._cursor import LAST
from carousel.client._events import Link
from carousel.client._health import StateNotice, state_notice
from carousel.client._inference_calls import output_mode
from carousel.client._inputs import Array, Floats, Input, chunk_input, input_tensor
from carousel.client._names import model_name
from carousel.client._step_errors import StepErrors
from carousel.errors import CarouselError, InputMismatch, InvalidField, from_parts
from carousel.v1 import inference_service_pb2 as pb

PATH = "carousel.v1.InferenceService/StepStates"
MAX_STATES = 1024
"""A message of more is split: states of 60 KiB still come back in one."""


@dataclass(frozen=True, slots=True)
class HeldState:
    """A state that the caller keeps: opaque bytes that a server sealed.

    `step_index` is the number of steps since the model's initial state. A state belongs to one
    `model_version`: name that as the model of the next step, not an alias, which may move. Nothing
    changes a state: it may be used again, and by many at once. `notices` are what the model's
    health policy did on the way to it.
    """

    data: bytes = field(repr=False)
    step_index: int
    model_version: str
    notices: tuple[StateNotice, ...] = field(default=(), compare=False)

    def __bytes__(self) -> bytes:
        return self.data


State = HeldState | bytes | None
"""What a caller hands over; None is the model's initial state."""


class HeldBatch:
    """Steps of N states, in as few messages as can be, and what became of them."""

    def __init__(
        self,
        model: str,
        states: Sequence[State],
        parts: Sequence[tuple[int, int, bytes]],
        outputs: str,
    ) -> None:
        if len(parts) != len(states):
            raise InputMismatch(
                f"there must be inputs for each of {len(states)} states, got {len(parts)}",
                field="inputs",
            )
        widths = {width for width, _, _ in parts}
        if len(widths) > 1:
            raise InputMismatch(
                f"the inputs of all states must be alike, got widths {sorted(widths)}",
                field="inputs",
            )
        self._model, self._mode = model_name(model), output_mode(outputs)
        self._sent = [_sent(place, state) for place, state in enumerate(states)]
        self._parts = parts  # width, steps and bytes for each state
        self._rows: list[Floats] = []  # outputs of each state
        self._states: list[HeldState | None] = []
        self._errors: dict[int, CarouselError] = {}

    @classmethod
    def of_steps(cls, model: str, states: Sequence[State], xs: Input) -> HeldBatch:
        """One step each: [N, D] features or [N] tokens."""
        if not len(states) and not np.size(xs):
            return cls(model, states, [], "all")
        width, steps, data = chunk_input(xs)
        size = len(data) // steps
        cuts = range(0, len(data), size)
        return cls(model, states, [(width, 1, data[cut : cut + size]) for cut in cuts], "all")

    @classmethod
    def of_chunks(
        cls, model: str, states: Sequence[State], xs: Sequence[Input] | Array, outputs: str
    ) -> HeldBatch:
        """Several steps each: [T, D] features or [T] tokens."""
        return cls(model, states, [chunk_input(x) for x in xs], outputs)

    def calls(self) -> Iterator[Call[pb.StepStatesResponse]]:
        """The messages, one after the other; `take` each answer before the next."""
        begin = size = 0
        for place, (state, (_, _, data)) in enumerate(zip(self._sent, self._parts, strict=True)):
            more = len(state) + len(data)
            if place > begin and (place - begin == MAX_STATES or size + more > MAX_BYTES):
                yield self._call(slice(begin, place))
                begin, size = place, 0
            size += more
        if self._parts:
            yield self._call(slice(begin, len(self._parts)))

    def _call(self, cut: slice) -> Call[pb.StepStatesResponse]:
        parts = self._parts[cut]
        lengths = [steps for _, steps, _ in parts]
        inputs = input_tensor(parts[0][0], sum(lengths), b"".join([data for _, _, data in parts]))
        request = pb.StepStatesRequest(
            model=self._model,
            states=self._sent[cut],
            lengths=[] if set(lengths) == {1} else lengths,
            inputs=inputs,
            output_mode=self._mode,  # type: ignore[arg-type]
        )
        return Call(PATH, request, pb.StepStatesResponse, _as_it_is)

    def take(self, response: pb.StepStatesResponse, link: Link) -> None:
        """Take in the answer to the next message."""
        link.tell_notices([""] * len(response.states), response.notices)
        first = len(self._states)
        outputs = tensors.decode(response.outputs, field="outputs")
        lengths = response.lengths or [1] * len(response.states)
        ends = np.cumsum(np.array(lengths, np.int64))
        self._rows += [rows.copy() for rows in np.split(outputs, ends[:-1])]
        for error in response.errors:
            self._errors[first + error.item] = from_parts(
                error.code, error.reason, error.message, error.metadata
            )
        told: dict[int, tuple[StateNotice, ...]] = {}
        for notice in response.notices:
            told[notice.item] = (*told.get(notice.item, ()), state_notice(notice))
        made = zip(response.states, response.step_indexes, strict=True)
        self._states += [
            HeldState(data, index, response.model_version, told.get(item, ())) if data else None
            for item, (data, index) in enumerate(made)
        ]

    def steps(self) -> tuple[Floats, list[HeldState]]:
        """Outputs [N, O] and the new states. Raises StepErrors."""
        states = self._good_states()
        return np.concatenate(self._rows or [np.zeros((0, 0), np.float32)]), states

    def chunks(self) -> tuple[list[Floats], list[HeldState]]:
        """Outputs of each state, as `Session.chunk` gives them, and the new states.

        Raises StepErrors.
        """
        states = self._good_states()
        return [rows[0] if self._mode == LAST else rows for rows in self._rows], states

    def _good_states(self) -> list[HeldState]:
        if self._errors:
            last = np.full((len(self._rows), self._rows[0].shape[1]), np.nan, np.float32)
            for place, rows in enumerate(self._rows):
                if len(rows):
                    last[place] = rows[-1]
            raise StepErrors(self._errors, last, self._states)
        return [state for state in self._states if state is not None]


def _as_it_is(message: pb.StepStatesResponse) -> pb.StepStatesResponse:
    return message


def _sent(place: int, state: State) -> bytes:
    """As it travels; nothing stands for the initial state, which only None asks for."""
    if state is None:
        return b""
    if not isinstance(state, HeldState | bytes) or not bytes(state):
        raise InvalidField(
            f"states[{place}] must be what a step gave, or None for the initial state, "
            f"got {state!r:.40}",
            field="states",
        )
    return bytes(state)
