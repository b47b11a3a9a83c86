"""The departed: what is remembered of sessions that are over or elsewhere, and of old handles."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from carousel.errors import SessionEnded
from carousel.server.names import owner_of, session_name
from carousel.v1 import session_pb2

REMEMBERED_SECONDS = 3600.0
REMEMBERED = 100_000  # of each kind

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(slots=True, frozen=True)
class Ended:
    """What is remembered of a session that is over. Times are seconds since the epoch.

    `session_id` and `version_name` are keys.
    """

    session_id: str
    version_name: str
    reason: int  # session_pb2.EndReason
    reason_name: str
    step_index: int
    create_time: float
    end_time: float
    durability: int = session_pb2.DURABILITY_MEMORY
    audited: bool = False

    def error(self) -> SessionEnded:
        return SessionEnded(
            f"session {session_name(self.session_id)} has ended ({self.reason_name.lower()}) after "
            f"{self.step_index} steps",
            metadata={"end_reason": self.reason_name, "step_index": str(self.step_index)},
        )


class Departed:
    """Of the session table; the oldest is forgotten when there are too many."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, Ended] = OrderedDict()
        self._former: OrderedDict[int, str] = OrderedDict()  # handle -> session id
        self._elsewhere: OrderedDict[str, None] = OrderedDict()  # ids that another server took over

    def ended(self, session_id: str) -> Ended | None:
        return self._ended.get(session_id)

    def end(self, ended: Ended) -> None:
        _remember(self._ended, ended.session_id, ended)

    def went_on_elsewhere(self, session_id: str) -> None:
        """Another server has it: it did not end, whatever was thought here."""
        self._ended.pop(session_id, None)
        _remember(self._elsewhere, session_id, None)

    def is_elsewhere(self, session_id: str) -> bool:
        return session_id in self._elsewhere

    def begin(self, ids: Iterable[str]) -> None:
        """Sessions of these ids are here now."""
        for known in (self._ended, self._elsewhere):
            if known:
                for session_id in known.keys() & ids:
                    del known[session_id]

    def fence(self, handle: int, session_id: str) -> None:
        """The handle was the session's, until now."""
        _remember(self._former, handle, session_id)

    def session_of(self, handle: int, tenant: str) -> str | None:
        """The session that had a handle before, if it is one that the tenant may know of."""
        session_id = self._former.get(handle)
        if session_id is None or (tenant and owner_of(session_id) != tenant):
            return None
        return session_id

    def among(self, handles: Sequence[int], tenant: str) -> list[int]:
        """The places of handles that `session_of` knows; none is to be found soon."""
        former, known = self._former, self.session_of
        if former.keys().isdisjoint(handles):
            return []
        return [
            place
            for place, handle in enumerate(handles)
            if handle in former and known(handle, tenant) is not None
        ]

    def forget(self, now: float) -> None:
        """Drop the ends that were remembered for long enough."""
        while self._ended:
            session_id, ended = next(iter(self._ended.items()))
            if ended.end_time > now - REMEMBERED_SECONDS:
                break
            del self._ended[session_id]

    def clear(self) -> None:
        """Know nothing, as after a start."""
        for known in (self._ended, self._former, self._elsewhere):
            known.clear()


def _remember(known: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > REMEMBERED:
        known.popitem(last=False)
