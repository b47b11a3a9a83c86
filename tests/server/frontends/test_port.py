"""The port of front ends is theirs alone."""

from __future__ import annotations

import socket

import pytest

from carousel.server.frontends.port import PortTaken, hold

HOST = "127.0.0.1"


def listen(port: int, *, sharing: bool) -> socket.socket:
    """As gRPC does."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sharing:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        one.bind((HOST, port))
        one.listen()
    except OSError:
        one.close()
        raise
    return one


def refuse_others(port: int) -> None:
    with pytest.raises(PortTaken):
        hold(HOST, port)
    with pytest.raises(OSError, match="in use"):
        listen(port, sharing=False)


def test_nobody_else_gets_a_port_that_is_held_whoever_listens_on_it() -> None:
    held = hold(HOST, 0)
    refuse_others(held.number)
    sharing = [listen(held.number, sharing=True) for _ in range(2)]
    refuse_others(held.number)
    for one in sharing:
        one.close()
    refuse_others(held.number)  # while the front ends are started again
    held.close()
    hold(HOST, held.number).close()


def test_a_port_is_held_again_though_connections_of_before_linger() -> None:
    held = hold(HOST, 0)
    with listen(held.number, sharing=True) as listening:
        client = socket.create_connection((HOST, held.number))
        accepted, _ = listening.accept()
        accepted.close()  # first, so that this side has to wait
        client.close()
    held.close()
    hold(HOST, held.number).close()


def test_a_port_where_somebody_listens_is_not_taken() -> None:
    with listen(0, sharing=True) as other, pytest.raises(PortTaken, match="in use"):
        hold(HOST, other.getsockname()[1])


def test_an_address_of_another_machine_is_not_taken() -> None:
    with pytest.raises(PortTaken, match="not ours"):
        hold("192.0.2.1", 0)
