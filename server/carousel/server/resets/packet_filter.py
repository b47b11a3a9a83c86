"""A packet filter on a listening socket: the system drops what comes from some networks before
there is a connection.

Classic BPF needs no privilege and stands below TLS. What is accepted inherits the filter of that
moment, which names nobody who could have connected then.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Network

from carousel.server.resets.networks import Network

MOST_NETWORKS = 256

_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # SO_..., asm-generic/socket.h
_IP_HEADER = 0xFFF00000  # SKF_NET_OFF: loads from here on are of the IP header
_VERSION, _IPV4_SOURCE, _IPV6_SOURCE = 0, 12, 8
_LOAD_BYTE, _LOAD_WORD, _AND, _JUMP, _JUMP_IF, _RETURN = 0x30, 0x20, 0x54, 0x05, 0x15, 0x06
_PASS, _DROP = 0xFFFFFFFF, 0

Instruction = tuple[int, int, int, int]  # code, jump if so, jump if not, constant


def shut_out(listener: socket.socket, networks: Iterable[Network]) -> None:
    """From now on nobody connects from these, and from these alone. Raises OSError."""
    program = _program(tuple(networks)[:MOST_NETWORKS])
    if not program:
        _let_all_in(listener)
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    listener.setsockopt(
        socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code))
    )


def _let_all_in(listener: socket.socket) -> None:
    with contextlib.suppress(FileNotFoundError):  # there was none
        listener.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)


def _program(networks: tuple[Network, ...]) -> list[Instruction]:
    if not networks:
        return []
    four = [
        one
        for network in networks
        if isinstance(network, IPv4Network)
        for one in ((_JUMP_IF, 0, 1, int(network.network_address)), (_RETURN, 0, 0, _DROP))
    ]
    six = [
        one
        for network in networks
        if not isinstance(network, IPv4Network)
        for one in _drop_ipv6(int(network.network_address) >> 64)
    ]
    return [
        (_LOAD_BYTE, 0, 0, _IP_HEADER + _VERSION),
        (_AND, 0, 0, 0xF0),
        (_JUMP_IF, 0, 1, 0x60),
        (_JUMP, 0, 0, 2 + len(four)),  # to IPv6
        (_LOAD_WORD, 0, 0, _IP_HEADER + _IPV4_SOURCE),
        *four,
        (_RETURN, 0, 0, _PASS),
        *six,
        (_RETURN, 0, 0, _PASS),
    ]


def _drop_ipv6(prefix: int) -> list[Instruction]:
    return [
        (_LOAD_WORD, 0, 0, _IP_HEADER + _IPV6_SOURCE),
        (_JUMP_IF, 0, 3, prefix >> 32),
        (_LOAD_WORD, 0, 0, _IP_HEADER + _IPV6_SOURCE + 4),
        (_JUMP_IF, 0, 1, prefix & 0xFFFFFFFF),
        (_RETURN, 0, 0, _DROP),
    ]
