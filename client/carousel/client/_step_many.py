"""Batch: one step of many sessions, as few messages as can be; alike for both clients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from carousel.client._columns import expiry, fill, outcomes, outputs_of, settle, split
from carousel.client._cursor import ALL, Cursor, Item
from carousel.client._errors import is_refusal
from carousel.client._events import Link
from carousel.client._inputs import Floats, Input, chunk_input
from carousel.client._session_view import SessionView
from carousel.client._step_errors import StepErrors
from carousel.errors import CarouselError, InputMismatch, InvalidField, SessionNotFound
from carousel.v1 import inference_service_pb2 as pb


@dataclass(slots=True, frozen=True)
class Part:
    """One message: sessions of one shard, model version and priority, by their places."""

    places: list[int]
    shard: int
    request: pb.StepRequest


class Batch:
    """One step for each of these sessions, and what became of it."""

    def __init__(self, sessions: Sequence[SessionView], xs: Input, link: Link) -> None:
        self._link = link
        self._cursors: list[Cursor] = [session._cursor for session in sessions]
        self.survives = all(cursor.survives for cursor in self._cursors)
        if len(set(map(id, self._cursors))) != len(sessions):
            raise InvalidField("a session can take only one step at a time", field="handles")
        width, steps, data = chunk_input(xs) if sessions else (0, 0, b"")
        if steps != len(sessions):
            raise InputMismatch(
                f"inputs must be [N] tokens or [N, D] features for {len(sessions)} sessions, "
                f"got {steps} rows",
                field="inputs",
            )
        size = len(data) // max(steps, 1)
        self._items = [
            Item(width, 1, data[begin : begin + size], ALL, False)
            for begin in range(0, len(data), size or 1)
        ]
        self._blocks: list[tuple[list[int], Floats]] = []  # places, and their rows
        self._errors: dict[int, CarouselError] = {}
        self.lost: list[int] = []  # places of sessions that outlive the server that had them

    def parts(self) -> Iterator[Part]:
        """The messages; their items are open from here until `take` or `fail`."""
        groups: dict[tuple[str, int, int], list[int]] = {}
        for place, cursor in enumerate(self._cursors):
            key = (cursor.model_version, cursor.shard, cursor.priority)
            groups.setdefault(key, []).append(place)
            cursor.open = self._items[place]
        for (_, shard, _), group in groups.items():
            for cut in split([self._items[place] for place in group]):
                places = group[cut]
                request = pb.StepRequest()
                cursors = [self._cursors[place] for place in places]
                fill(request, cursors, [self._items[place] for place in places])
                yield Part(places, shard, request)

    def take(self, part: Part, response: pb.StepResponse) -> None:
        names = [self._cursors[place].name for place in part.places] if response.notices else []
        self._link.tell_notices(names, response.notices)
        if response.errors:
            self._take_each(part, response)
            return
        self._blocks.append((part.places, outputs_of(response)))
        expires = expiry(response)
        for place, durable in zip(part.places, response.durable_indexes or repeat(0), strict=False):
            cursor = self._cursors[place]
            cursor.succeed(self._items[place], durable)
            cursor.expires = expires

    def _take_each(self, part: Part, response: pb.StepResponse) -> None:
        found = zip(part.places, outcomes(response), strict=True)
        for number, (place, outcome) in enumerate(found):
            cursor = self._cursors[place]
            if isinstance(outcome, SessionNotFound) and cursor.survives:
                self.lost.append(place)
            elif isinstance(outcome, CarouselError):
                cursor.fail(outcome)
                self._errors[place] = outcome
            else:
                settle(cursor, self._items[place], response, number)
                self._blocks.append(([place], outcome))

    def item(self, place: int) -> Item:
        return self._items[place]

    def found(self, place: int, outcome: Floats | CarouselError) -> None:
        """What became of one that was lost."""
        if isinstance(outcome, CarouselError):
            self._errors[place] = outcome
        else:
            self._blocks.append(([place], outcome[None]))

    def fail(self, part: Part, error: CarouselError) -> None:
        """A whole message failed."""
        for place in part.places:
            self._errors[place] = error
            if is_refusal(error):
                self._cursors[place].fail(error)

    def result(self, *, return_errors: bool) -> Floats | tuple[Floats, dict[int, CarouselError]]:
        """[N, O], with the errors or raising them. What failed as one is raised as one."""
        errors = list(self._errors.values())
        if errors and not self._blocks and all(error is errors[0] for error in errors):
            raise errors[0]
        size = max((rows.shape[1] for _, rows in self._blocks), default=0)
        outputs = np.full((len(self._items), size), np.nan, np.float32)
        for places, rows in self._blocks:
            outputs[places, : rows.shape[1]] = rows
        if return_errors:
            return outputs, self._errors
        if errors:
            raise StepErrors(self._errors, outputs)
        return outputs
