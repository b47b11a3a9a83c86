"""The TCP sockets of this process at a port, which gRPC opened and shows to nobody.

Each is looked at through a duplicate of its descriptor, so that one that is closed meanwhile, and
its number given to another, does no harm.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

from carousel.server.resets.networks import Network, network_of

_DISCARDED = 1 << 20  # bytes at a time


def listeners(port: int) -> list[socket.socket]:
    """Duplicates of those that listen, for the caller to close."""
    return list(_at(port, lambda one: one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1))


def cut(port: int, is_out: Callable[[Network], bool]) -> int:
    """End the connections from some networks; how many there were."""
    count = 0
    for connection in _at(port, lambda one: is_out(_peer(one))):
        with connection:
            count += 1
            _end(connection)
    return count


def _at(port: int, wanted: Callable[[socket.socket], bool]) -> Iterator[socket.socket]:
    for name in os.listdir("/proc/self/fd"):
        one = _duplicate(int(name))
        if one is None:
            continue
        try:
            if _port(one) == port and wanted(one):
                yield one
                continue
        except (OSError, ValueError):  # gone meanwhile
            pass
        one.close()


def _duplicate(descriptor: int) -> socket.socket | None:
    try:
        descriptor = os.dup(descriptor)
    except OSError:  # closed meanwhile
        return None
    try:
        return socket.socket(fileno=descriptor)
    except OSError:  # no socket
        os.close(descriptor)
        return None


def _port(one: socket.socket) -> int | None:
    """Of TCP; None: it is no such socket."""
    tcp = one.type == socket.SOCK_STREAM and one.family in (socket.AF_INET, socket.AF_INET6)
    return int(one.getsockname()[1]) if tcp else None


def _peer(one: socket.socket) -> Network:
    return network_of(one.getpeername()[0].partition("%")[0])


def _end(connection: socket.socket) -> None:
    """Nothing goes out any more, and what has come is never read."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
        while connection.recv(_DISCARDED, socket.MSG_DONTWAIT | socket.MSG_TRUNC):
            pass
    except OSError:
        pass  # gone, or empty
