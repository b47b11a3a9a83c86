"""What gRPC counts of a server's calls and connections: its channelz, read within the process."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from random import sample
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from carousel.server.resets.networks import Network, network_of_peer

# To look at one connection costs 0.15 ms. Of more than these, the newest and some others are looked
# at, others each time, so that nobody hides among many.
NEWEST, SOME = 256, 256
# One that is busy answers only when it comes to that, and the interpreter stands still meanwhile:
# nobody is looked at once a look has taken so long.
LOOK_AT_MOST = 0.03  # seconds

_channelz: Any = cygrpc  # which has no types for it


@dataclass(frozen=True, slots=True)
class Streams:
    """Of one connection, since it was made. `unanswered` are taken back, cut, or still open."""

    network: Network
    answered: int
    unanswered: int


class Arrivals(grpc.GenericRpcHandler):
    """Counts every call that is taken up, and lets the next handler have it.

    A call that is taken back before its request has come never reaches a handler of ours.
    """

    def __init__(self) -> None:
        self.count = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
        self.count += 1


class Tally:
    """One server's counts."""

    def __init__(self, server: int) -> None:
        self._server = server

    def connections(self, after: int = 0) -> dict[int, Network]:
        """All that gRPC numbered higher, the oldest first."""
        found: dict[int, Network] = {}
        while True:
            page = json.loads(_channelz.channelz_get_server_sockets(self._server, after + 1, 0))
            for one in page.get("socketRef", ()):
                after = int(one["socketId"])
                with contextlib.suppress(ValueError):  # of no TCP
                    found[after] = network_of_peer(one["name"])
            if page.get("end", False) or not page.get("socketRef"):
                return found

    def streams(self, numbers: Iterable[int]) -> dict[int, Streams]:
        """Of those that are still there, and of TCP; of the first ones, where it takes long."""
        found = {}
        end = time.monotonic() + LOOK_AT_MOST
        for number in numbers:
            with contextlib.suppress(KeyError, ValueError):
                one = json.loads(_channelz.channelz_get_socket(number))["socket"]
                found[number] = _streams(one)
            if time.monotonic() > end:
                break
        return found


def some_of(numbers: list[int]) -> list[int]:
    """The newest, and some of the others."""
    others = numbers[:-NEWEST]
    return sample(others, min(SOME, len(others))) + numbers[-NEWEST:]


def newest_server() -> int:
    """The number of the server that was made last."""
    newest = 0
    while True:
        page = json.loads(_channelz.channelz_get_servers(newest + 1))
        for one in page.get("server", ()):
            newest = int(one["ref"]["serverId"])
        if page.get("end", False) or not page.get("server"):
            return newest


def _streams(one: dict[str, Any]) -> Streams:
    name, data = one["ref"]["name"], one["data"]
    answered = int(data.get("streamsSucceeded", 0))
    return Streams(network_of_peer(name), answered, int(data.get("streamsStarted", 0)) - answered)
