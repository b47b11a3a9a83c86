"""The cursor: where a session stands, and the item of it whose outcome is not known yet.

Exactly once rests on it. An item that was sent stays open until the server has said what became
of it; while it is open, the only thing that may be sent is that very item again, under the same
step index. So every item that leaves the client is fed once, whatever happens to its answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
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
    StepsLost,
    StoreUnavailable,
)
from carousel.v1 import inference_service_pb2, session_pb2

MODES = {"all": 1, "last": 2, "none": 3}
"""OutputMode by what a caller writes."""

ALL, LAST, NONE = MODES.values()

MAX_LAG = 4096
"""Steps whose inputs are kept at most until the server has them in its store."""

REPLAYED_AT_ONCE = 256
"""Steps of one request when kept inputs are sent again."""


@dataclass(slots=True)  # freezing would cost more than the rest of making one
class Item:
    """A step or a chunk: `steps` inputs of one width as bytes, and which outputs to send back."""

    width: int
    steps: int
    data: bytes
    mode: int
    is_chunk: bool

    def part(self, begin: int, end: int) -> Item:
        """Some of its steps, for their effect alone."""
        size = len(self.data) // self.steps
        return Item(self.width, end - begin, self.data[begin * size : end * size], NONE, True)


@dataclass(slots=True)
class Said:
    """A generation as far as its tokens came: its request, which has them as `received`."""

    request: inference_service_pb2.GenerateRequest
    steps: int = 0

    def again(self, handle: int) -> inference_service_pb2.GenerateRequest:
        """A request that feeds what came, where it is missing, and no more."""
        request = inference_service_pb2.GenerateRequest()
        request.CopyFrom(self.request)
        request.handle, request.max_tokens = handle, len(request.received)
        return request


class Cursor:
    """One incarnation of a session, as its holder sees it.

    `index` is that of the next step, or of the open item's first. `expires` is in seconds since
    the epoch. `durable` is the durable index: of a session that `survives` its server, the inputs
    of all steps from there on are in `kept`, to be sent again should the server be lost. `priority`
    is what its items travel with.
    """

    __slots__ = (
        "durable",
        "expires",
        "handle",
        "index",
        "kept",
        "model_version",
        "name",
        "open",
        "priority",
        "shard",
        "state",
        "survives",
    )

    def __init__(self, made: session_pb2.Session, priority: int) -> None:
        self.name = made.name
        self.model_version = made.model_version
        self.shard = made.shard
        self.priority = priority
        self.open: Item | None = None
        self.kept: deque[tuple[int, Item | Said]] = deque()  # by the index of the first step
        self.survives = made.durability > session_pb2.DURABILITY_MEMORY
        self.renew(made)

    def renew(self, made: session_pb2.Session) -> None:
        """Begin a new incarnation: nothing of the former one can arrive any more."""
        self.kept.clear()
        self.index = made.step_index
        self.state = SessionState.ACTIVE
        self.open = None
        self.reattach(made)

    def reattach(self, made: session_pb2.Session) -> None:
        """Go on with a new handle for the same stream of steps."""
        self.handle = made.handle
        self.model_version = made.model_version
        self.durable = made.durable_index
        self.expires = made.expire_time.seconds + made.expire_time.nanos / 1e9

    def succeed(self, item: Item, durable: int = 0) -> None:
        """The open item is done, and steps below `durable` are in the server's store."""
        if self.survives:
            if durable < self.index + item.steps:
                self.kept.append((self.index, item))
            self.stored(durable)
        self.index += item.steps
        self.open = None

    def said(self, said: Said, step_index: int) -> None:
        """Another token came, and was fed before `step_index`."""
        begin = said.request.step_index
        said.steps = step_index - begin
        self.index = step_index
        if self.survives and not (self.kept and self.kept[-1][1] is said):
            self.kept.append((begin, said))

    def stored(self, durable: int) -> None:
        """Let go of inputs that the server has in its store."""
        if durable > self.durable:
            self.durable = durable
        kept = self.kept
        while kept and kept[0][0] + kept[0][1].steps <= durable:
            kept.popleft()

    @property
    def is_far_ahead(self) -> bool:
        """Whether more inputs are kept than should be: the server's store is behind."""
        return bool(self.kept) and self.index - self.durable >= MAX_LAG

    def replay(self, begin: int) -> Iterator[tuple[int, Item | Said]]:
        """The kept inputs of the steps from `begin` on, in parts; raises StepsLost."""
        if begin < self.index and (not self.kept or self.kept[0][0] > begin):
            raise StepsLost(
                f"{self.name} came back at step {begin}, before step {self.index}, and the inputs "
                "in between are not kept"
            )
        for first, item in tuple(self.kept):
            if isinstance(item, Said):
                if begin < first + item.steps:
                    yield first, item
                continue
            for at in range(max(begin - first, 0), item.steps, REPLAYED_AT_ONCE):
                yield first + at, item.part(at, min(at + REPLAYED_AT_ONCE, item.steps))

    def fail(self, error: CarouselError) -> None:
        """The server refused the open item.

        A chunk that was cut off half way stays open: sent again, it goes on where it stopped. So
        does what is committed and could not be stored.
        """
        self.notice(error)
        if isinstance(error, StoreUnavailable):
            return
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
        if (
            self.open is not None
            and self.survives
            and info.step_index == self.index + self.open.steps
        ):
            self.kept.append((self.index, self.open))
        self.index = info.step_index
        self.expires = info.expire_time.timestamp()
        self.state = info.state
        self.open = None


def shaped(item: Item, rows: Floats) -> Floats:
    """An item's outputs, [rows, O] or [O], as its caller expects them: [O] but for chunks."""
    if item.is_chunk and item.mode != LAST:
        return rows if rows.ndim == 2 else rows[np.newaxis]
    return rows if rows.ndim == 1 else rows[0]


def far_ahead(cursor: Cursor) -> StoreUnavailable:
    return StoreUnavailable(
        f"{cursor.name} is {cursor.index - cursor.durable} steps ahead of the server's store, "
        f"which takes nothing at present; the inputs of at most {MAX_LAG} are kept",
        retry_after=1.0,
    )
