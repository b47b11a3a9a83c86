"""Bytes that are no gRPC, on both ports: others are served, and what was held is given back."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random

import numpy as np
import pytest

from tests.conftest import RunningServer
from tests.processes import PATIENCE, until
from tests.server.contract import Wire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
# HPACK: POST, http, and literals without index.
HEADERS = b"\x83\x86" + b"".join(
    b"\0" + bytes([len(k)]) + k + bytes([len(v)]) + v
    for k, v in (
        (b":path", b"/carousel.v1.InferenceService/StreamSteps"),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
)


@pytest.fixture(autouse=True)
def others_are_served(wire: Wire) -> Iterator[None]:
    """A session goes on at the right step, with the right numbers, after each attack."""
    session = wire.create("models/tiny")
    first = wire.outputs([session.handle], [0], np.zeros((1, 3), np.float32))
    yield
    other = wire.create("models/tiny")
    assert np.array_equal(first, wire.outputs([other.handle], [0], np.zeros((1, 3), np.float32)))
    wire.outputs([session.handle], [1], np.zeros((1, 3), np.float32))


@pytest.fixture
def wire(channel: object) -> Wire:
    return Wire(channel)  # type: ignore[arg-type]


def opened(port: int | None) -> socket.socket:
    assert port
    connection = socket.create_connection(("localhost", port))
    connection.settimeout(PATIENCE)
    return connection


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def send_all(connection: socket.socket, data: bytes) -> bool:
    """False once the server has hung up."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("preface", [b"", PREFACE, PREFACE + SETTINGS, b"GET / HTTP/1.1\r\n"])
def test_random_bytes_close_their_connection_alone(server: RunningServer, preface: bytes) -> None:
    random = Random(1)
    for port in (server.server.port, server.server.http_port):
        for _ in range(10):
            with opened(port) as connection:
                send_all(connection, preface + random.randbytes(random.randint(1, 4000)))


def test_a_tls_hello_to_a_plain_port_is_refused(server: RunningServer) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for port in (server.server.port, server.server.http_port):
        with opened(port) as connection, pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(connection)


def test_streams_that_are_reset_at_once_are_let_go_of(server: RunningServer) -> None:
    """HTTP/2 rapid reset, CVE-2023-44487: 2,000 streams opened and reset, unless it is cut off."""
    with opened(server.server.port) as connection:
        assert send_all(connection, PREFACE + SETTINGS)
        for number in range(2000):
            stream = 2 * number + 1
            begin = frame(1, 4, stream, HEADERS)
            if not send_all(connection, begin + frame(3, 0, stream, struct.pack(">I", 8))):
                break
    until(lambda: len(server.server.calls.flows) == 0)


def test_hundreds_of_connections_that_say_nothing_are_in_nobody_s_way(
    server: RunningServer, wire: Wire
) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(opened(server.server.port))
            last = stack.enter_context(opened(server.server.port))
            last.sendall(PREFACE + SETTINGS)
        session = wire.create("models/tiny")
        for index in range(10):
            wire.outputs([session.handle], [index], np.zeros((1, 3), np.float32))


def test_half_a_request_is_no_call(server: RunningServer) -> None:
    """Headers of a stream, and a message of which the end never comes."""
    with opened(server.server.port) as connection:
        half = b"\0" + struct.pack(">I", 2**31 - 1) + b"\n"
        connection.sendall(PREFACE + SETTINGS + frame(1, 4, 1, HEADERS) + frame(0, 0, 1, half))
        until(lambda: len(server.server.calls.flows) in (0, 1))
    until(lambda: len(server.server.calls.flows) == 0)


def test_random_handles_hit_nothing_and_cost_bounded_time(
    server: RunningServer, wire: Wire
) -> None:
    live = [wire.create("models/tiny").handle for _ in range(50)]
    random = Random(2)
    begin = time.perf_counter()
    for _ in range(25):
        guesses = [random.getrandbits(64) for _ in range(4000)]
        assert not set(guesses) & set(live)
        response = wire.step(guesses, [0] * 4000, np.zeros((4000, 3), np.float32))
        assert len(response.errors) == 4000
        assert {error.reason for error in response.errors} == {"SESSION_NOT_FOUND"}
    assert time.perf_counter() - begin < 60  # minutes would be a way to hold the server up
    assert len({handle >> 32 for handle in live}) > 40  # no counter, no clock
