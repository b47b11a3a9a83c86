"""Made: new sessions, and the answer that leaves when they are as lasting as they shall be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from carousel.server.names import session_key
from carousel.v1 import session_pb2

Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Made(Generic[Reply]):
    """Of one call: all are durable, and audited, or none."""

    reply: Reply
    keys: Sequence[str]
    handles: Sequence[int]
    durable: bool
    audited: bool


def made_one(session: session_pb2.Session) -> Made[session_pb2.Session]:
    return Made(
        session,
        [session_key(session)],
        [session.handle],
        durable=session.durability != session_pb2.DURABILITY_MEMORY,
        audited=session.audited,
    )
