"""HTTPS: a connection made secure, and what a client without a certificate is told."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from carousel.exposition._certificate import Certificate
from carousel.exposition._http import Answer

NO_CERTIFICATE = Answer(
    b'{"error": {"reason": "CERTIFICATE_REQUIRED", '
    b'"message": "clients without a certificate are told health alone"}}',
    "application/json",
    403,
)
_PLAIN = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 24\r\n\r\n"
    b"this port speaks https.\n"
)
_HANDSHAKE = 0x16  # the first byte of TLS


def secured(request: socket.socket, certificate: Certificate, seconds: float) -> socket.socket:
    """TLS over a connection, within `seconds`. Who speaks plainly is told so. Raises OSError."""
    request.settimeout(seconds)
    first = request.recv(1, socket.MSG_PEEK)
    if first and first[0] != _HANDSHAKE:
        request.sendall(_PLAIN)
        raise ConnectionAbortedError("HTTP came where HTTPS was expected")
    return certificate.current.context.wrap_socket(request, server_side=True)


def uris_of(connection: socket.socket) -> tuple[str, ...]:
    """Of the certificate that the client showed, which an authority of ours has signed."""
    shown = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    names: Any = (shown or {}).get("subjectAltName", ())
    return tuple(name for kind, name in names if kind == "URI")


def is_known(connection: socket.socket) -> bool:
    """Whether the client showed a certificate; with a wrong one it would not have come so far."""
    return isinstance(connection, ssl.SSLSocket) and connection.getpeercert() is not None
