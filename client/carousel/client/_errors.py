"""Errors of gRPC, as the classes of carousel.errors."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import grpc
from google.rpc import status_pb2

from carousel.client._events import Link
from carousel.client._retry import RESENT
from carousel.client._tls import TLS, explain, hint
from carousel.errors import (
    CarouselError,
    MessageTooLarge,
    ServerUnreachable,
    TlsFailed,
    Unavailable,
    from_parts,
    from_status,
)

_DETAILS_KEY = "grpc-status-details-bin"


class Guard:
    """Around every call: raises what gRPC raised as our own, and keeps an eye on the link."""

    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, grpc.RpcError):
            ours = translate(error, self._link.tls)
            self._link.saw(ours)
            raise ours from error
        if error is None and not self._link.up:
            self._link.answered()


def translate(error: grpc.RpcError, tls: TLS | None) -> CarouselError:
    """The error that the server raised, or what the failure of the transport amounts to.

    `tls` is how the server was called.
    """
    status = _status(error)
    if status is not None:
        return from_status(status)
    code, details = error.code(), error.details() or "no details"
    if code is grpc.StatusCode.UNAVAILABLE:
        if (insecure := explain(details, tls)) is not None:
            return TlsFailed(insecure)
        return ServerUnreachable(f"the server can't be reached: {details}{hint(details, tls)}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than" in details:
        # The transport refuses large messages on its own, without our error details.
        return MessageTooLarge(details)
    return from_parts(code.value[0], "", details, {})


def is_refusal(error: BaseException | None) -> bool:
    """Whether the server itself refused the call at the door, so that nothing was committed.

    Of all other failures nobody knows, and sending the same steps again is always safe.
    """
    if isinstance(error, CarouselError):
        error = error.__cause__
    if not isinstance(error, grpc.RpcError) or error.code() not in _REFUSALS:
        return False
    return _status(error) is not None


def may_go_better(error: CarouselError) -> bool:
    """Whether a call that is safe to make again should be: the server asks for it, or the call was
    cut off on its way."""
    if isinstance(error, Unavailable):
        return True
    cause = error.__cause__
    return isinstance(cause, grpc.RpcError) and cause.code() in RESENT and _status(cause) is None


_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)


def _status(error: grpc.RpcError) -> status_pb2.Status | None:
    metadata: Any = error.trailing_metadata()  # a Metadata, or pairs, by the kind of channel
    for key, value in metadata or ():
        if key == _DETAILS_KEY:
            return status_pb2.Status.FromString(value)
    return None
