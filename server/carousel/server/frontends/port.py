"""The port that front ends share, held by the server so that no other has it."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Any

# Names for several addresses, as gRPC takes them, whatever the system's own tables say.
SEVERAL = {
    "localhost": ("127.0.0.1", "::1"),
    "0.0.0.0": ("0.0.0.0", "::"),
    "::": ("0.0.0.0", "::"),
}
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # such as ::1 where there is no IPv6
TRIES = 16  # to find a free port that every address of the host has


Address = tuple[Any, ...]  # host, port, and for IPv6 two numbers more


class PortTaken(Exception):
    """The port can't be had; the message says why."""


@dataclass(slots=True)
class HeldPort:
    """A port on all addresses of a host. Whoever holds it takes no connections."""

    number: int
    _sockets: list[socket.socket]

    def close(self) -> None:
        for one in self._sockets:
            one.close()


def hold(host: str, port: int) -> HeldPort:
    """Take a port, 0 for a free one, for oneself and what shares it. Raises PortTaken, OSError.

    A port that is shared from the start would be shared with another server too. So it is taken
    alone first, which fails where anybody has it in whatever way, and while that lasts a second
    socket takes it to be shared. That one stays, and keeps out everybody who does not share.
    """
    addresses = _addresses(host)
    for _ in range(TRIES):
        sockets: list[socket.socket] = []
        number = port
        try:
            for family, address in addresses:
                try:
                    sockets.append(_hold_one(family, (address[0], number, *address[2:])))
                except OSError as error:
                    if error.errno not in NOT_HERE:
                        raise
                    continue
                number = sockets[-1].getsockname()[1]
        except OSError as error:
            for one in sockets:
                one.close()
            if error.errno == errno.EADDRINUSE and port == 0:
                continue  # free on one address, taken on the other
            raise PortTaken("the port is in use") from error
        if sockets:
            return HeldPort(number, sockets)
        break
    raise PortTaken("the address is not ours")


def _addresses(host: str) -> list[tuple[socket.AddressFamily, Address]]:
    found = [
        (family, address)
        for name in SEVERAL.get(host, (host,))
        for family, _, _, _, address in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    ]
    return list(dict.fromkeys(found))


def _hold_one(family: socket.AddressFamily, address: Address) -> socket.socket:
    with socket.socket(family, socket.SOCK_STREAM) as alone:
        # What is left of closed connections is in nobody's way.
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _only_its_own_family(alone)
        alone.bind(address)
        alone.listen(1)
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared = socket.socket(family, socket.SOCK_STREAM)
        try:
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _only_its_own_family(shared)
            shared.bind(alone.getsockname())
        except OSError:
            shared.close()
            raise
        return shared


def _only_its_own_family(one: socket.socket) -> None:
    if one.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
