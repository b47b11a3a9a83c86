"""The cursor: where a session stands, and the item of it whose outcome is not known yet.

Exactly once rests on it. An item that was sent stays open until the server has said what became
of it; while it is open, the only thing that may be sent is that very item again, under the same
step index. So every item that leaves the client is fed once, whatever happens to its answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carousel.client._inputs import Floats
from carousel.client._session_values import SessionInfo, SessionState
from carousel.errors import (
    Cancelled,
    CarouselError,
    DeadlineExceeded,
    SessionEnded,
    SessionNotFound,
    SessionQuarantined,
)
from carousel.v1 import session_pb2

MODES = {"all": 1, "last": 2, "none": 3}
"""OutputMode by what a caller writes."""

ALL, LAST, NONE = MODES.values()


@dataclass(slots=True)  # freezing would cost more than the rest of making one
class Item:
    """A step or a chunk: `steps` inputs of one width as bytes, and which outputs to send back."""

    width: int
    steps: int
    data: bytes
    mode: int
    is_chunk: bool


class Cursor:
    """One incarnation of a session, as its holder sees it.

    `index` is that of the next step, or of the open item's first. `expires` is in seconds since
    the epoch. `durable` is the durable index.
    """

    __slots__ = (
        "durable",
        "expires",
        "handle",
        "index",
        "model_version",
        "name",
        "open",
        "shard",
        "state",
    )

    def __init__(self, made: session_pb2.Session) -> None:
        self.name = made.name
        self.model_version = made.model_version
        self.shard = made.shard
        self.open: Item | None = None
        self.renew(made)

    def renew(self, made: session_pb2.Session) -> None:
        """Begin a new incarnation: nothing of the former one can arrive any more."""
        self.handle = made.handle
        self.index = made.step_index
        self.durable = made.durable_index
        self.expires = made.expire_time.seconds + made.expire_time.nanos / 1e9
        self.state = SessionState.ACTIVE
        self.open = None

    def succeed(self, item: Item) -> None:
        """The open item is done."""
        self.index += item.steps
        self.open = None

    def fail(self, error: CarouselError) -> None:
        """The server refused the open item.

        A chunk that was cut off half way stays open: sent again, it goes on where it stopped.
        """
        self.notice(error)
        committed = int(error.metadata.get("committed_steps", 0))
        if committed and isinstance(error, DeadlineExceeded | Cancelled):
            return
        self.open = None
        self.index = int(error.metadata.get("expected_step", self.index + committed))

    def notice(self, error: CarouselError) -> None:
        """Keep what an error says about the session's life."""
        if isinstance(error, SessionQuarantined):
            self.state = SessionState.QUARANTINED
        elif isinstance(error, SessionEnded | SessionNotFound):
            self.state = SessionState.ENDED

    def end(self) -> None:
        self.state = SessionState.ENDED
        self.open = None

    def learn(self, info: SessionInfo) -> None:
        """Take over where the server says the session stands; nothing may be on its way."""
        self.index = info.step_index
        self.expires = info.expire_time.timestamp()
        self.state = info.state
        self.open = None


def shaped(item: Item, rows: Floats) -> Floats:
    """An item's outputs, [rows, O] or [O], as its caller expects them: [O] but for chunks."""
    if item.is_chunk and item.mode != LAST:
        return rows if rows.ndim == 2 else rows[np.newaxis]
    return rows if rows.ndim == 1 else rows[0]
