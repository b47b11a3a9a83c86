"""`python -m tests.soak.hostile_callers KIND PORT COUNT`: one way to be in a server's way.

It prints a line when it is at it, and goes on until it is killed; who guesses, for COUNT guesses.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random

import grpc
import numpy as np

from tests.server.contract import Wire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GUESSES = 4000  # in a message
ELSEWHERE = "127.0.0.2"  # not the address of whoever is measured


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


SETTINGS = frame(4, 0, 0)
NO_WINDOW = frame(4, 0, 0, struct.pack(">HI", 4, 0))
CANCEL = struct.pack(">I", 8)


def headers(method: str) -> bytes:
    """HPACK: POST, http, and literals without index."""
    fields = (
        (b":path", f"/carousel.v1.{method}".encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
    literals = (b"\0" + bytes([len(k)]) + k + bytes([len(v)]) + v for k, v in fields)
    return b"\x83\x86" + b"".join(literals)


STREAM, LIST = headers("InferenceService/StreamSteps"), headers("ModelService/ListModels")


def opened(port: int, data: bytes) -> socket.socket:
    connection = socket.create_connection(
        ("127.0.0.1", port), timeout=5, source_address=(ELSEWHERE, 0)
    )
    connection.settimeout(5)
    with suppress(OSError):
        connection.sendall(data)
    return connection


def hold(port: int, count: int, data: bytes) -> None:
    """So many connections at once, on which this was said and nothing follows."""
    held = [opened(port, data) for _ in range(count)]
    print(f"{len(held):,} connections", flush=True)
    while True:
        time.sleep(60)


def idle(port: int, count: int) -> None:
    hold(port, count, PREFACE + SETTINGS)


def silent(port: int, count: int) -> None:
    """Not even a preface: half of a handshake."""
    hold(port, count, PREFACE[:10])


def half(port: int, count: int) -> None:
    """A message of 4 MiB that ends after its first byte, on a tenth as many connections.

    Each is a call: all at once they would be a flood of calls, which is another matter.
    """
    message = frame(0, 0, 1, b"\0" + struct.pack(">I", 2**22) + b"\n")
    hold(port, count // 10, PREFACE + SETTINGS + frame(1, 4, 1, STREAM) + message)


def unread(port: int, count: int) -> None:
    """Twenty calls on each of a fiftieth; their answers have no window to come through."""
    calls = b"".join(
        frame(1, 4, stream, LIST) + frame(0, 1, stream, bytes(5)) for stream in range(1, 41, 2)
    )
    hold(port, count // 50, PREFACE + NO_WINDOW + calls)


def resets(port: int, count: int) -> None:
    """HTTP/2 rapid reset: 2,000 streams on a connection, then the next one."""
    streams = b"".join(
        frame(1, 4, stream, STREAM) + frame(3, 0, stream, CANCEL) for stream in range(1, 4001, 2)
    )
    again(port, lambda: PREFACE + SETTINGS + streams)


def noise(port: int, count: int) -> None:
    random = Random(1)
    starts = (b"", PREFACE, PREFACE + SETTINGS, b"\x16\x03\x01")
    again(port, lambda: random.choice(starts) + random.randbytes(random.randint(1, 4000)))


def again(port: int, made: Callable[[], bytes]) -> None:
    """One connection after the other."""
    print("one after the other", flush=True)
    while True:
        with suppress(OSError), opened(port, made()):
            pass


def guesses(port: int, count: int) -> None:
    """Prints how many of the guesses hit something."""
    random, hits = Random(2), 0
    print("one message after the other", flush=True)
    inputs = np.zeros((GUESSES, 3), np.float32)
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        wire = Wire(channel)
        for _ in range(count // GUESSES):
            answer = wire.step(
                [random.getrandbits(64) for _ in range(GUESSES)], [0] * GUESSES, inputs
            )
            hits += sum(error.reason != "SESSION_NOT_FOUND" for error in answer.errors)
            hits += GUESSES - len(answer.errors)
    print(hits, flush=True)


KINDS = {
    "idle": idle,
    "silent": silent,
    "half": half,
    "unread": unread,
    "resets": resets,
    "noise": noise,
    "guesses": guesses,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
