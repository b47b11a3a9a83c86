"""Stepping: how a session's items are sent, and brought to their end when something breaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from carousel.client import _session_calls
from carousel.client._call import Call, Result
from carousel.client._columns import fill, fill_item, outcomes, settle
from carousel.client._cursor import Item, Said, far_ahead, shaped
from carousel.client._errors import is_refusal, may_go_better
from carousel.client._events import Event
from carousel.client._generation import PATH
from carousel.client._inputs import Floats
from carousel.client._priority import Priority
from carousel.client._retry import STORE_PAUSE, delay
from carousel.client._session_view import SessionView
from carousel.client._transport import Transport
from carousel.errors import (
    CarouselError,
    MessageTooLarge,
    SessionAtRest,
    SessionNotFound,
    StoreUnavailable,
)
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_pb2


class Stepping(SessionView):
    """The part of Session below its public methods."""

    def __init__(self, transport: Transport, made: session_pb2.Session, priority: Priority) -> None:
        super().__init__(made, priority)
        self._transport = transport
        self._lock = threading.RLock()

    def _take(self, item: Item, timeout: float | None) -> Floats:
        with self._lock:
            self._ready(timeout)
            return self._send(item, timeout)

    def _send(self, item: Item, timeout: float | None) -> Floats:
        """Send an item; it is open from here until its outcome is known."""
        cursor = self._cursor
        end = time.monotonic() + (self._transport.timeout if timeout is None else timeout)
        if cursor.is_far_ahead and cursor.open is None:
            self._wait_for_store(end)
        cursor.open = item
        while True:
            outcome = self._try(item, end)
            if isinstance(outcome, SessionNotFound) and cursor.survives:
                self._recover(end)
            elif isinstance(outcome, StoreUnavailable) and time.monotonic() + STORE_PAUSE < end:
                time.sleep(STORE_PAUSE)
            else:
                break
        if isinstance(outcome, CarouselError):
            cursor.fail(outcome)
            raise outcome
        return shaped(item, outcome)

    def _try(self, item: Item, end: float) -> Floats | CarouselError:
        """One item's outcome; raises what happened to the whole call."""
        cursor = self._cursor
        request = pb.StepRequest()
        fill(request, [cursor], [item])
        try:
            response = self._transport.step(
                request,
                shard=cursor.shard,
                timeout=max(end - time.monotonic(), 0.001),
                patient=cursor.survives,
            )
        except MessageTooLarge:
            # Whichever way it was too large, sending it again won't help; the server knows.
            cursor.learn(self._transport.call(_session_calls.get(self.name), None))
            raise
        except CarouselError as error:
            if is_refusal(error):
                cursor.fail(error)
            raise
        self._transport.link.tell_notices([cursor.name], response.notices)
        outcome = outcomes(response)[0]
        if not isinstance(outcome, CarouselError):
            settle(cursor, item, response, 0)
        return outcome

    def _recover(self, end: float, *, moving: bool = False) -> None:
        """The server that had the session is gone: attach, and send again what was not stored."""
        cursor = self._cursor
        made = self._ask(_session_calls.reattach(cursor, moving=moving), end)
        self._transport.link.tell(Event("session_recovered", session=self.name))
        went_back = made.step_index < cursor.durable
        steps = [] if went_back else list(cursor.replay(made.step_index))
        cursor.reattach(made)
        for index, item in steps:
            try:
                self._replay(index, item, end)
            except SessionNotFound:
                return self._recover(end, moving=moving)  # it was lost once more

    def _replay(self, index: int, item: Item | Said, end: float) -> None:
        """Feed once more what was not stored."""
        if isinstance(item, Said):
            said, reply = item.again(self.handle), pb.GenerateResponse

            def once(seconds: float) -> None:
                self._transport.exhaust(PATH, said, reply, timeout=seconds)

            self._persist(once, end)
            return
        request = pb.StepRequest(handles=[self.handle], step_indexes=[index])
        fill_item(request, item)
        response = self._transport.step(
            request,
            shard=self._cursor.shard,
            timeout=max(end - time.monotonic(), 0.001),
            patient=True,
        )
        outcome = outcomes(response)[0]
        if isinstance(outcome, CarouselError):
            raise outcome

    def _persist(self, call: Callable[[float], Result], end: float) -> Result:
        """Make a call, given its seconds, until it comes through or the time is up."""
        attempt = 0
        while True:
            try:
                return call(max(end - time.monotonic(), 0.001))
            except CarouselError as error:
                attempt += 1
                wait = delay(attempt)
                if not may_go_better(error) or time.monotonic() + wait >= end:
                    raise
                self._transport.link.tell(Event("retry", attempt=attempt, delay=wait, error=error))
            time.sleep(wait)

    def _ask(self, call: Call[Result], end: float) -> Result:
        """Make a unary call until it comes through or the time is up."""
        return self._persist(lambda seconds: self._transport.call(call, seconds), end)

    def _wait_for_store(self, end: float) -> None:
        """Until the server has stored enough that no more inputs must be kept."""
        cursor = self._cursor
        while cursor.is_far_ahead:
            cursor.stored(self._ask(_session_calls.get(self.name), end).durable_index)
            if cursor.is_far_ahead:
                if time.monotonic() >= end:
                    raise far_ahead(cursor)
                time.sleep(0.05)

    def _call(
        self, call: Callable[[], Call[Result]], timeout: float | None, *, back: bool = False
    ) -> Result:
        """A call about this session that may be made again; where the session survives its server,
        until it comes through or the time is up, and the session is brought back first.

        `call` makes it anew: what it says of the handle may have changed. `back`: it may give the
        session a lower step index.
        """
        if not self._cursor.survives:
            return self._transport.call(call(), timeout)
        end = time.monotonic() + (self._transport.timeout if timeout is None else timeout)
        while True:
            try:
                return self._persist(lambda seconds: self._transport.call(call(), seconds), end)
            except SessionAtRest:
                self._recover(end, moving=back)

    def _move(
        self,
        call: Callable[[], Call[session_pb2.Session]],
        timeout: float | None,
        *,
        back: bool = False,
    ) -> None:
        """A call that gives the session a new handle."""
        self._renew(self._call(call, timeout, back=back))

    def _ready(self, timeout: float | None) -> None:
        """Bring what is unfinished to its end, so that the step index is known."""
        if self._generation is not None:
            self._stop_generation()
            if self._generation.index_known:
                self._generation = None
            else:
                # A new incarnation: nothing of the cut generation can be committed after it.
                self._move(lambda: _session_calls.rewind(self.name, self.handle, steps=0), timeout)
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
