"""A call: everything about one unary rpc but the wire."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from carousel.client._channel import Metadata

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """What to send where, and what to make of the answer.

    `path` is as in `carousel.v1.SessionService/GetSession`. `timeout` is in seconds, for work
    that takes longer than a client's ordinary deadline. `metadata` is sent beside the client's own.
    """

    path: str
    request: Message
    reply: type[Message]
    decode: Callable[[Any], Result]
    timeout: float = 0.0
    metadata: Metadata = ()


serialize = operator.methodcaller("SerializeToString")
"""For every kind of request."""


def nothing(_: Any) -> None:
    """Decodes an empty answer."""
