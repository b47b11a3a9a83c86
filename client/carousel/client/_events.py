"""Events: what happens to a client behind its caller's back, told to a hook."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from carousel.client._health import StateNotice, state_notice
from carousel.client._tls import TLS
from carousel.errors import CarouselError, ServerUnreachable
from carousel.v1 import inference_service_pb2 as pb

EventKind = Literal[
    "connected",
    "disconnected",
    "reconnected",
    "retry",
    "moved",
    "session_created",
    "session_recovered",
    "session_ended",
    "state_health",
]

_LOG = logging.getLogger("carousel.client")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    connected: the server answered for the first time. disconnected: it can't be reached; `error`
    says why. reconnected: it answered again after that. retry: steps are sent again, under the
    same step indexes, or a generation goes on behind the last token that came; `attempt` counts
    from 1, `delay` is the wait before it in seconds. moved: the server is going and named a
    successor, which is asked from now on. session_created, session_ended: `session` is its name.
    session_recovered: the server that had the session was lost; it goes on with another, and what
    was not stored is sent again. state_health: a rule of the model's health policy fired for
    `session`; `notice` says what it did. There is no name where a generation has no session of its
    own, and of held states, whose notices say which.
    """

    kind: EventKind
    session: str = ""
    attempt: int = 0
    delay: float = 0.0
    error: CarouselError | None = None
    notice: StateNotice | None = None


class Link:
    """Whether the server answers, as far as the last call could tell; `tls` is how it is called."""

    __slots__ = ("_on_event", "_seen", "on_failure", "tls", "up")

    def __init__(self, on_event: Callable[[Event], None] | None, tls: TLS | None = None) -> None:
        self.tls = tls
        self._on_event = on_event
        self._seen = False
        self.up = False
        self.on_failure: Callable[[CarouselError], None] = lambda error: None

    def tell(self, event: Event) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            _LOG.exception("on_event failed on %s", event)

    def tell_notices(
        self, sessions: Sequence[str | None], notices: Iterable[pb.ItemNotice]
    ) -> None:
        """Tell what health policies did; `sessions` by item, None for one that is nobody's."""
        for notice in notices:
            session = sessions[notice.item]
            if session is not None:
                self.tell(Event("state_health", session=session, notice=state_notice(notice)))

    def answered(self) -> None:
        """To be called when `up` is False and the server answered."""
        self.up = True
        seen, self._seen = self._seen, True
        self.tell(Event("reconnected" if seen else "connected"))

    def saw(self, error: CarouselError) -> None:
        """To be called with the error of a whole call."""
        self.on_failure(error)
        if not isinstance(error, ServerUnreachable):
            return
        was_up, self.up = self.up, False
        if was_up:
            self.tell(Event("disconnected", error=error))
