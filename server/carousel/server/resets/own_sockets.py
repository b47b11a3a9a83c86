"""The TCP sockets of this process at a port, which gRPC opened and shows to nobody.

Each is looked at through a duplicate of its descriptor, so that one that is closed meanwhile, and
its number given to another, does no harm.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

from carousel.server.resets.networks import Network, network_of

_DESCRIPTORS = "/proc/self/fd"
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
    for name in os.listdir(_DESCRIPTORS):
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
    """Of a socket; None: it is none, or is closed meanwhile.

    No duplicate of a file may be closed: that takes the locks (fcntl) that this process has on the
    file, as SQLite does.
    """
    try:
        if not os.readlink(f"{_DESCRIPTORS}/{descriptor}").startswith("socket:"):
            return None
        duplicate = os.dup(descriptor)
    except OSError:
        return None
    try:
        return socket.socket(fileno=duplicate)
    except OSError:  # a file took the number in between: its duplicate stays open
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
