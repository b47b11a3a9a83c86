"""What a session knows without asking the server; the part that both kinds share."""

from __future__ import annotations

from datetime import UTC, datetime

from carousel.client._cursor import Cursor
from carousel.client._generation import Generation
from carousel.client._priority import Priority, priority_number
from carousel.client._session_values import SessionInfo, SessionState, session_info
from carousel.v1 import session_pb2


class SessionView:
    """Name, step index and so on, as of the last answer."""

    def __init__(self, made: session_pb2.Session, priority: Priority) -> None:
        self._cursor = Cursor(made, priority_number(priority))
        self._priority: Priority = priority
        self._told: SessionInfo | session_pb2.Session = made  # read when it is asked for
        self._generation: Generation | None = None

    @property
    def name(self) -> str:
        """`sessions/{id}`."""
        return self._cursor.name

    @property
    def id(self) -> str:
        return self._cursor.name.removeprefix("sessions/")

    @property
    def handle(self) -> int:
        """The 64-bit id of this incarnation; new after rewind and reset."""
        return self._cursor.handle

    @property
    def model_version(self) -> str:
        """`models/{model}/versions/{number}`."""
        return self._cursor.model_version

    @property
    def step_index(self) -> int:
        """The index of the next step; equally, the number of steps taken. While `unsettled`, that
        of the step whose outcome is open."""
        return self._cursor.index

    @property
    def durable_index(self) -> int:
        """Steps below it are in the server's store, as of the last answer."""
        return self._cursor.durable

    @property
    def priority(self) -> Priority:
        """Of its steps, chunks and generations."""
        return self._priority

    @property
    def unsettled(self) -> bool:
        """Whether a step was sent whose answer has not come (timeout, cancel, lost connection).
        The next use of the session settles it first; `settle` gives its output."""
        return self._cursor.open is not None

    @property
    def expire_time(self) -> datetime:
        """When the session ends unless it is used before, or a little later; UTC."""
        return datetime.fromtimestamp(self._cursor.expires, UTC)

    @property
    def state(self) -> SessionState:
        return self._cursor.state

    @property
    def info(self) -> SessionInfo:
        """The last description; `refresh` asks for a new one."""
        if isinstance(self._told, session_pb2.Session):
            self._told = session_info(self._told)
        return self._told

    @property
    def _is_unready(self) -> bool:
        """Whether something must be brought to its end before the next use."""
        return self._cursor.open is not None or self._generation is not None

    def _renew(self, made: session_pb2.Session) -> None:
        self._cursor.renew(made)
        self._told = made
        self._generation = None

    def _learn(self, info: SessionInfo) -> SessionInfo:
        """Keep a description that may be older or newer than the last answer."""
        self._told = info
        self._cursor.state = info.state
        self._cursor.expires = info.expire_time.timestamp()
        return info

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} of {self.model_version} at {self.step_index}>"
