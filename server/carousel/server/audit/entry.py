"""Entries of an audit log: their bytes, and the chain that holds them together.

A file is one entry after the other, little-endian throughout, each

    header, 36 bytes | payload | hash, 32 bytes

    magic "CAL1" | kind u1 | cause u1 | 0 u2 | payload bytes u4 | steps u4 | step index i8 |
    time f8 | CRC-32 u4 of the hash before and the header up to here

The hash is BLAKE2b over the hash before, the header and the payload; that before the first entry
of a file is zero. The CRC tells an entry that a crash cut off from one whose length was changed.
Times are seconds since the epoch. The payload is

    HEAD    JSON: whose log it is, and what computes from here on (`head.Head`)
    STATE   a row, float32 [width]: the state before step `step index`; `cause` says what set it
    STEPS   inputs, float32 [steps, D] or int32 tokens [steps]; then what was answered: float32
            [steps, O], or BLAKE2b of 16 bytes over each row of it where the server was bit-exact
    END     nothing: the session ended before step `step index`, for the reason `cause`
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from carousel.v1 import session_service_pb2 as pb

MAGIC = b"CAL1"
HEAD, STATE, STEPS, END = 1, 2, 3, 4

PERIODIC = pb.AUDIT_EVENT_UNSPECIFIED  # the cause of a state that steps alone led to
ADJUSTED, RESTORED = pb.AUDIT_EVENT_ADJUSTED, pb.AUDIT_EVENT_RESTORED

HEADER = struct.Struct("<4sBBHIIqd")
CHECK = struct.Struct("<I")
HEADER_BYTES = HEADER.size + CHECK.size
HASH_BYTES = 32
DIGEST_BYTES = 16
NOTHING = bytes(HASH_BYTES)
# hashlib gives up the interpreter's lock for more; winning it back from a busy engine would take
# far longer than the hashing.
HASHED_AT_ONCE = 2047


@dataclass(slots=True)
class Entry:
    """One entry, without its place in a chain."""

    kind: int
    step_index: int
    time: float
    payload: bytes = b""
    steps: int = 0
    cause: int = PERIODIC


@dataclass(slots=True, frozen=True)
class Placed:
    """An entry as it was read: where it ends, and the hash there."""

    entry: Entry
    end: int
    hash: bytes


class Damage(Exception):
    """What was read is not what was written."""


class Torn(Exception):
    """The file ends within an entry: a crash, or a write that is under way."""


def encode(entry: Entry, before: bytes) -> tuple[bytes, bytes]:
    """The bytes of an entry that follows the hash `before`, and its own hash."""
    payload = entry.payload
    head = HEADER.pack(
        MAGIC, entry.kind, entry.cause, 0, len(payload), entry.steps, entry.step_index, entry.time
    )
    head += CHECK.pack(zlib.crc32(head, zlib.crc32(before)))
    own = chain(before, head, payload)
    return b"".join((head, payload, own)), own


def chain(before: bytes, head: bytes, payload: bytes) -> bytes:
    if len(payload) <= HASHED_AT_ONCE - HASH_BYTES - HEADER_BYTES:
        return hashlib.blake2b(before + head + payload, digest_size=HASH_BYTES).digest()
    found = hashlib.blake2b(before + head, digest_size=HASH_BYTES)
    view = memoryview(payload)
    for begin in range(0, len(payload), HASHED_AT_ONCE):
        found.update(view[begin : begin + HASHED_AT_ONCE])
    return found.digest()


def digest(output: bytes) -> bytes:
    """What stands for one row of outputs."""
    return hashlib.blake2b(output, digest_size=DIGEST_BYTES).digest()


def read(
    file: BinaryIO, *, begin: int = 0, before: bytes = NOTHING, until: int | None = None
) -> Iterator[Placed]:
    """The entries from an offset on, whose hash before is known, up to another offset or the end.

    Raises Damage; Torn only without `until`.
    """
    at = begin
    file.seek(at)
    while until is None or at < until:
        try:
            placed = _next(file, at, before)
        except Torn:
            if until is None:
                raise
            placed = None
        if placed is None and until is None:
            return
        if placed is None:
            raise Damage(f"{until} bytes were written, entries end at byte {at}")
        at, before = placed.end, placed.hash
        yield placed
    if until is not None and at != until:
        raise Damage(f"an entry ends at byte {at}, behind byte {until}")


def _next(file: BinaryIO, at: int, before: bytes) -> Placed | None:
    """The entry here; None at the end of the file. Raises Damage, Torn."""
    head = file.read(HEADER_BYTES)
    if not head:
        return None
    if len(head) < HEADER_BYTES:
        raise Torn
    magic, kind, cause, _, length, steps, step_index, time = HEADER.unpack_from(head)
    [check] = CHECK.unpack_from(head, HEADER.size)
    if magic != MAGIC or check != zlib.crc32(head[: HEADER.size], zlib.crc32(before)):
        raise _broken(file, at)
    rest = file.read(length + HASH_BYTES)
    if len(rest) < length + HASH_BYTES:
        raise Torn
    payload, own = rest[:length], rest[length:]
    if own != chain(before, head, payload):
        raise _broken(file, at)
    entry = Entry(kind, step_index, time, payload, steps, cause)
    return Placed(entry, at + HEADER_BYTES + len(rest), own)


def _broken(file: BinaryIO, at: int) -> Damage | Torn:
    """Some file systems leave zeros in place of a write that a crash took; no hash ends in them."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - HASH_BYTES))
    if not file.read().strip(b"\0"):
        return Torn()
    return Damage(f"the entry at byte {at} does not follow from the one before")
