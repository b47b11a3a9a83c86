"""Varints: numbers as protobuf writes them, for messages that are written by hand."""

from __future__ import annotations


def varint(number: int) -> bytes:
    """Of a number that is not negative."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)
