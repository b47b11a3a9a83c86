"""Callers whom a front end let in, as it tells of them on the private socket."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import grpc

from carousel.errors import Unauthenticated
from carousel.server.access.caller import Caller, caller_now, peer_now
from carousel.server.access.grant import Grant, Source
from carousel.server.access.headers import AUTHORIZATION, TENANT
from carousel.server.access.metrics import NONE
from carousel.server.access.rules import PUBLIC
from carousel.server.logs import REQUEST_ID_KEY, request_id

CALLER = "carousel-caller-bin"
# Of the private socket, at both ends: what callers may take, the front end has seen to.
OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 2**22),
    ("grpc.absolute_max_metadata_size", 2**22),
    ("grpc.max_concurrent_streams", 2**31 - 1),
)
# What the front end has dealt with, and what gRPC says for itself.
_KEPT_BACK = frozenset({AUTHORIZATION, TENANT, REQUEST_ID_KEY, CALLER, "user-agent"})

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = tuple[tuple[str, str | bytes], ...]


def forwarded(context: Context) -> Metadata:
    """What goes on to the engine of a call's metadata, with who calls, from where, and the
    request's id."""
    caller = caller_now()
    told = [caller.name, caller.tenant, sorted(caller.scopes), peer_now.get() or context.peer()]
    who = json.dumps(told).encode()
    given = context.invocation_metadata() or ()
    kept = [
        (key, value)
        for key, value in given
        if key not in _KEPT_BACK and not key.startswith("grpc-")
    ]
    own: str | bytes = request_id.get()
    if not own:  # of a call that is too frequent to be given an id
        own = next((value for key, value in given if key == REQUEST_ID_KEY), "")
    named = [(REQUEST_ID_KEY, own)] if own else []
    return (*kept, *named, (CALLER, who))


class ForwardedGate:
    """The gate of the private socket, which front ends alone can reach: it believes them.

    A credential that ends while a stream goes on is the front end's to notice.
    """

    def rule(self, method: str) -> str:
        return PUBLIC

    async def admit(self, rule: str, context: Context) -> Grant:
        for key, value in context.invocation_metadata() or ():
            if key == CALLER:
                name, tenant, scopes, peer = json.loads(value)
                peer_now.set(peer)
                caller = Caller(name, tenant, frozenset(scopes))
                return Grant(caller=caller, kind=NONE, source=Source(), until=math.inf)
        raise Unauthenticated("this socket is for front ends")

    def admit_http(
        self, authorization: list[str], uris: Sequence[str], scopes: frozenset[str]
    ) -> None:
        raise Unauthenticated("this gate is not for HTTP")

    def start(self) -> None: ...

    async def close(self) -> None: ...
