"""The link between the engine's process and a front end: records both ways, in order.

They lie in two rings in shared memory. A pair of sockets carries nothing but how far each side has
written and read, which also orders the accesses of the two processors; when it closes, the other
process has ended.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import struct
import tempfile
from collections import deque
from collections.abc import Callable, Sequence

from carousel.server.frontends.ring import RingReader, RingWriter

RING_BYTES = 2 * 2**20
"""Of each direction; a record may be longer, it goes through in parts."""

_NOTE = struct.Struct("<QQ")  # bytes ever written, bytes ever read
_LENGTH = struct.Struct("<I")
_MOST_NOTES = 4096 * _NOTE.size


def make_memory() -> int:
    """Memory for a link, as the descriptor of a file without a name, gone with its last user."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("carousel-frontend")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, 2 * RING_BYTES)
    return descriptor


class Link:
    """One end, of an event loop's thread. `receive` is given all records that came at once.

    `lost` is called once, when the other process has ended.
    """

    def __init__(
        self,
        memory: int,
        near: socket.socket,
        *,
        is_engine: bool,
        receive: Callable[[Sequence[bytes]], None],
        lost: Callable[[], None],
    ) -> None:
        self._map = mmap.mmap(memory, 2 * RING_BYTES)
        view = memoryview(self._map)
        halves = view[:RING_BYTES], view[RING_BYTES:]
        self._out = RingWriter(halves[not is_engine])
        self._into = RingReader(halves[is_engine])
        self._socket = near
        self._receive = receive
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes] = []  # of this moment
        self._backlog: deque[memoryview] = deque()  # for which the ring had no room
        self._scheduled = False
        self._told = 0  # of what was read
        self._unsent = b""  # of a note, when the socket took a part of it
        self._notes = b""  # of a note, when a part of it has come
        self._partial = bytearray()  # of a record
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()
        near.setblocking(False)
        self._loop.add_reader(near, self._readable)

    @property
    def received(self) -> int:
        """Bytes, ever."""
        return self._into.consumed

    def send(self, record: bytes) -> None:
        """What is sent in one moment goes together."""
        if self._closed:
            return
        self._waiting += (_LENGTH.pack(len(record)), record)
        if not self._scheduled:
            self._scheduled = True
            self._empty.clear()
            self._loop.call_soon(self._flush)

    async def sent(self) -> None:
        """Wait until the other side can read all, or is gone."""
        await self._empty.wait()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._empty.set()
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def _flush(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        if self._waiting:
            self._backlog.append(memoryview(b"".join(self._waiting)))
            self._waiting.clear()
        before = self._out.written
        while self._backlog:
            data = self._backlog[0]
            taken = self._out.write(data)
            if taken < len(data):
                self._backlog[0] = data[taken:]
                break
            self._backlog.popleft()
        if self._out.written != before:
            self._tell()
        if not self._backlog and not self._unsent:
            self._empty.set()

    def _tell(self) -> None:
        """How far this side is; when the socket is full, as soon as it has room."""
        if self._unsent:
            return
        self._told = self._into.consumed
        note = _NOTE.pack(self._out.written, self._told)
        try:
            count = self._socket.send(note)
        except BlockingIOError:
            count = 0
        except OSError:
            return  # the other side has ended, which the reader finds out
        if count < len(note):
            # Nothing of the note is out of date but its numbers, which only grow.
            self._unsent = note[count:]
            self._loop.add_writer(self._socket, self._go_on_telling)

    def _go_on_telling(self) -> None:
        try:
            count = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            count = len(self._unsent)
        self._unsent = self._unsent[count:]
        if not self._unsent:
            self._loop.remove_writer(self._socket)
            self._tell()
            if not self._backlog and not self._waiting and not self._unsent:
                self._empty.set()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_MOST_NOTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self._lost()
            return
        notes = self._notes + data
        whole = len(notes) // _NOTE.size * _NOTE.size
        self._notes = notes[whole:]
        if not whole:
            return
        written, self._out.consumed = _NOTE.unpack_from(notes, whole - _NOTE.size)
        if self._backlog:
            self._flush()
        if written != self._into.consumed:
            records = self._split(self._into.read(written))
            if self._into.consumed - self._told > RING_BYTES // 4:
                self._tell()
            if records:
                self._receive(records)

    def _split(self, data: bytes) -> list[bytes]:
        """The records that are whole."""
        if self._partial:
            self._partial += data
            if not self._is_whole(self._partial):
                return []
            data = bytes(self._partial)
            self._partial.clear()
        records, begin, end = [], 0, len(data)
        while end - begin >= _LENGTH.size:
            body = begin + _LENGTH.size
            after = body + int(_LENGTH.unpack_from(data, begin)[0])
            if after > end:
                break
            records.append(data[body:after])
            begin = after
        if begin < end:
            self._partial += data[begin:]
        return records

    @staticmethod
    def _is_whole(data: bytearray) -> bool:
        size = _LENGTH.size
        return len(data) >= size and len(data) >= size + int(_LENGTH.unpack_from(data)[0])
