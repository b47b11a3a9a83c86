"""Stepping: how a session's items are sent, and brought to their end when something breaks."""

from __future__ import annotations

import threading

from carousel.client import _session_calls
from carousel.client._columns import fill, outcomes, update
from carousel.client._cursor import Item, shaped
from carousel.client._errors import is_refusal
from carousel.client._inputs import Floats
from carousel.client._session_view import SessionView
from carousel.client._transport import Transport
from carousel.errors import CarouselError, MessageTooLarge
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_pb2


class Stepping(SessionView):
    """The part of Session below its public methods."""

    def __init__(self, transport: Transport, made: session_pb2.Session) -> None:
        super().__init__(made)
        self._transport = transport
        self._lock = threading.RLock()

    def _take(self, item: Item, timeout: float | None) -> Floats:
        with self._lock:
            self._ready(timeout)
            return self._send(item, timeout)

    def _send(self, item: Item, timeout: float | None) -> Floats:
        """Send an item; it is open from here until its outcome is known."""
        cursor = self._cursor
        cursor.open = item
        request = pb.StepRequest()
        fill(request, [cursor], [item])
        try:
            response = self._transport.step(request, shard=cursor.shard, timeout=timeout)
        except MessageTooLarge:
            # Whichever way it was too large, sending it again won't help; the server knows.
            cursor.learn(self._transport.call(_session_calls.get(self.name), timeout))
            raise
        except CarouselError as error:
            if is_refusal(error):
                cursor.fail(error)
            raise
        outcome = outcomes(response)[0]
        if isinstance(outcome, CarouselError):
            cursor.fail(outcome)
            raise outcome
        cursor.succeed(item)
        update(cursor, response, 0)
        return shaped(item, outcome)

    def _ready(self, timeout: float | None) -> None:
        """Bring what is unfinished to its end, so that the step index is known."""
        if self._generation is not None:
            self._stop_generation()
            if self._generation.index_known:
                self._generation = None
            else:
                # A new incarnation: nothing of the cut generation can be committed after it.
                call = _session_calls.rewind(self.name, self.handle, steps=0)
                self._renew(self._transport.call(call, timeout))
        item = self._cursor.open
        if item is not None:
            try:
                self._send(item, timeout)
            except CarouselError:
                if self._cursor.open is not None:
                    raise

    def _stop_generation(self) -> None:
        if self._generation is not None:
            self._generation.cancel(why="the generation was cut short: its session was used")
