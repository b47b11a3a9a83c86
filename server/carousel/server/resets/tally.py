"""What gRPC counts of a server's calls and connections: its channelz, read within the process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from grpc._cython import cygrpc

from carousel.server.resets.networks import Network, network_of

MOST_CONNECTIONS = 4096  # that one look takes in: the newest

_channelz: Any = cygrpc  # which has no types for it


class ServerGone(Exception):
    """gRPC has none of this number any more."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Of one connection, since it was made. `unanswered` are taken back, cut, or still open."""

    network: Network
    answered: int
    unanswered: int


class Tally:
    """One server's counts."""

    def __init__(self, server: int) -> None:
        self._server = server

    def lost_calls(self) -> int:
        """Calls that ended without an answer, since the start. Raises ServerGone."""
        try:
            data = json.loads(_channelz.channelz_get_server(self._server))["server"]["data"]
        except ValueError as error:
            raise ServerGone from error
        return int(data.get("callsFailed", 0))

    def connections(self) -> dict[int, Streams]:
        """By gRPC's number of each connection."""
        found = {}
        for number in self._numbers()[-MOST_CONNECTIONS:]:
            try:
                one = json.loads(_channelz.channelz_get_socket(number))["socket"]
                found[number] = _streams(one)
            except (KeyError, ValueError):
                continue  # it has gone, or is none of TCP
        return found

    def _numbers(self) -> list[int]:
        numbers: list[int] = []
        while True:
            begin = numbers[-1] + 1 if numbers else 0
            page = json.loads(_channelz.channelz_get_server_sockets(self._server, begin, 0))
            numbers += [int(one["socketId"]) for one in page.get("socketRef", ())]
            if page.get("end", False) or not page.get("socketRef"):
                return numbers


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
    return Streams(_network(name), answered, int(data.get("streamsStarted", 0)) - answered)


def _network(name: str) -> Network:
    """Of the peer, from a name such as `chttp2 ipv4:127.0.0.1:40000` or `... ipv6:%5B::1%5D:40000`.

    Raises ValueError.
    """
    address = name.rpartition(" ")[2].partition(":")[2].rpartition(":")[0]
    return network_of(address.removeprefix("%5B").removesuffix("%5D").partition("%")[0])
