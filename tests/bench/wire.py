"""A light gRPC client: HTTP/2 frames written and read by hand.

A client of grpc.aio costs as much CPU for a call as the server it measures, so that on two cores
it would set the pace. This one costs a tenth: headers are constant bytes, those that come are not
looked into, and all that one turn of the event loop sends is one write.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
LARGEST = 2**31 - 1
FRAME = 16_384
DEFAULT_WINDOW = 65_535

Receiver = Callable[[bytes], None]


class WireError(Exception):
    """The server broke off, or answered with an error."""


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def _setting(key: int, value: int) -> bytes:
    return key.to_bytes(2, "big") + value.to_bytes(4, "big")


def _string(text: str) -> bytes:
    assert len(text) < 127
    return bytes((len(text),)) + text.encode()


def request_headers(path: str, authority: str, tenant: str = "") -> bytes:
    """A block of HPACK without compression and without indexing: the same at every call."""
    of_tenant = b"\x00" + _string("x-carousel-tenant") + _string(tenant) if tenant else b""
    return (
        b"\x83\x86"  # POST, http
        + b"\x04"
        + _string(path)
        + b"\x01"
        + _string(authority)
        + b"\x00"
        + _string("te")
        + _string("trailers")
        + b"\x0f\x10"
        + _string("application/grpc")
        + of_tenant
    )


class Connection(asyncio.Protocol):
    """One connection. `open` a stream, `send` messages; each answer goes to its receiver."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._read = bytearray()
        self._out: list[bytes] = []
        self._window = self._initial = DEFAULT_WINDOW  # what the server lets us send
        self._windows: dict[int, int] = {}
        self._receivers: dict[int, Receiver] = {}
        self._messages: dict[int, bytearray] = {}
        self._answered: set[int] = set()
        self._blocked: deque[tuple[int, bytes, bool]] = deque()
        self._unacknowledged = 0
        self._next = 1
        self.failure: WireError | None = None
        self.closing = False
        self.may_refuse = False  # a call without an answer is told as an empty message

    @classmethod
    async def to(cls, host: str, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(cls, host, port)
        return protocol

    def close(self) -> None:
        self.closing = True
        self._transport.close()

    def open(self, headers: bytes, receiver: Receiver) -> int:
        stream = self._next
        self._next += 2
        self._receivers[stream] = receiver
        self._windows[stream] = self._initial
        self._messages[stream] = bytearray()
        self._write(_frame(HEADERS, END_HEADERS, stream, headers))
        return stream

    def send(self, stream: int, message: bytes, *, end: bool = False) -> None:
        data = b"\x00" + len(message).to_bytes(4, "big") + message
        size = len(data)
        if size > FRAME or size > self._window or size > self._windows[stream] or self._blocked:
            self._blocked.append((stream, data, end))
            self._unblock()
            return
        self._window -= size
        self._windows[stream] -= size
        self._write(_frame(DATA, END_STREAM if end else 0, stream, data))

    def call(self, headers: bytes, message: bytes, receiver: Receiver) -> None:
        """A unary call."""
        self.send(self.open(headers, receiver), message, end=True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        # No table for compressed headers; windows that are never full.
        settings = _setting(1, 0) + _setting(4, LARGEST) + _setting(5, 2**24 - 1)
        opening = (LARGEST - DEFAULT_WINDOW).to_bytes(4, "big")
        self._write(PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW, 0, 0, opening))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closing and self.failure is None:
            self.failure = WireError(f"the connection was lost: {exc}")

    def data_received(self, data: bytes) -> None:
        read = self._read
        read += data
        begin, end = 0, len(read)
        while end - begin >= 9:
            size = int.from_bytes(read[begin : begin + 3], "big")
            if end - begin < 9 + size:
                break
            stream = int.from_bytes(read[begin + 5 : begin + 9], "big")
            payload = bytes(read[begin + 9 : begin + 9 + size])
            self._take(read[begin + 3], read[begin + 4], stream, payload)
            begin += 9 + size
        del read[:begin]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._take_data(stream, payload)
        elif kind == WINDOW:
            more = int.from_bytes(payload, "big")
            if stream:
                if stream in self._windows:
                    self._windows[stream] += more
            else:
                self._window += more
            self._unblock()
        elif kind == SETTINGS and not flags & ACK:
            self._take_settings(payload)
        elif kind == PING and not flags & ACK:
            self._write(_frame(PING, ACK, 0, payload))
        elif kind == RESET and self.may_refuse:
            self._end(stream, payload)
        elif (kind == RESET and payload != bytes(4)) or (kind == GOAWAY and not self.closing):
            self.failure = WireError(f"frame {kind} on stream {stream}: {payload!r}")
        if flags & END_STREAM and kind in (DATA, HEADERS):
            self._end(stream, payload)

    def _end(self, stream: int, payload: bytes) -> None:
        self._windows.pop(stream, None)
        self._messages.pop(stream, None)
        receiver = self._receivers.pop(stream, None)
        if stream in self._answered:
            self._answered.discard(stream)
        elif self.may_refuse and receiver is not None:
            receiver(b"")
        elif not self.closing:
            self.failure = WireError(f"stream {stream} ended without an answer: {payload!r}")

    def _take_data(self, stream: int, payload: bytes) -> None:
        self._unacknowledged += len(payload)
        if self._unacknowledged > 2**28:
            self._write(_frame(WINDOW, 0, 0, self._unacknowledged.to_bytes(4, "big")))
            self._unacknowledged = 0
        waiting = self._messages[stream]
        waiting += payload
        while len(waiting) >= 5:
            size = 5 + int.from_bytes(waiting[1:5], "big")
            if len(waiting) < size:
                break
            message = bytes(waiting[5:size])
            del waiting[:size]
            self._answered.add(stream)
            self._receivers[stream](message)

    def _take_settings(self, payload: bytes) -> None:
        for place in range(0, len(payload), 6):
            key = int.from_bytes(payload[place : place + 2], "big")
            value = int.from_bytes(payload[place + 2 : place + 6], "big")
            if key == 4:
                for stream in self._windows:
                    self._windows[stream] += value - self._initial
                self._initial = value
        self._write(_frame(SETTINGS, ACK, 0))
        self._unblock()

    def _unblock(self) -> None:
        """Send what waits for the server's windows, in order."""
        while self._blocked:
            stream, data, end = self._blocked[0]
            room = min(self._window, self._windows[stream], FRAME, len(data))
            if room <= 0:
                return
            last = room == len(data)
            self._window -= room
            self._windows[stream] -= room
            self._write(_frame(DATA, END_STREAM if end and last else 0, stream, data[:room]))
            if last:
                self._blocked.popleft()
            else:
                self._blocked[0] = (stream, data[room:], end)

    def _write(self, frame: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if not self.closing:
            self._transport.write(b"".join(out))
