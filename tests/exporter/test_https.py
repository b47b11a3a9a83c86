"""The HTTP port over TLS: what is told, to whom, and that nobody holds it up."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from carousel.exposition import Answer, Certificate, Files, HttpServer
from tests.papers import Papers
from tests.processes import PATIENCE


@contextmanager
def listening(papers: Papers, *, mutual: bool = False, **given: Any) -> Iterator[HttpServer]:
    ca = papers.cert("ca") if mutual else None
    certificate = Certificate(Files(papers.cert("server"), papers.key("server"), ca))
    routes = {
        "/metrics": lambda request: Answer(b"numbers\n"),
        "/healthz": lambda request: Answer(b"alive\n"),
    }
    server = HttpServer("127.0.0.1", 0, routes, certificate=certificate, **given)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def ask(server: HttpServer, papers: Papers, path: str, client: str | None = None) -> bytes:
    """The whole answer. Raises OSError where there is none."""
    context = ssl.create_default_context(cafile=str(papers.cert("ca")))
    if client is not None:
        context.load_cert_chain(papers.cert(client), papers.key(client))
    with connect(server) as plain, context.wrap_socket(plain, server_hostname="localhost") as own:
        own.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return b"".join(iter(lambda: own.recv(65536), b""))


def test_it_answers_over_tls(papers: Papers) -> None:
    with listening(papers) as server:
        assert ask(server, papers, "/metrics").endswith(b"\r\n\r\nnumbers\n")


def test_without_a_certificate_there_is_health_alone(papers: Papers) -> None:
    """An orchestrator has none, and must know whether we live."""
    with listening(papers, mutual=True) as server:
        assert ask(server, papers, "/healthz").endswith(b"alive\n")
        refused = ask(server, papers, "/metrics")
        assert refused.startswith(b"HTTP/1.0 403 ")
        assert b"CERTIFICATE_REQUIRED" in refused
        assert b"numbers" not in refused
        assert ask(server, papers, "/metrics", "client").endswith(b"numbers\n")


@pytest.mark.parametrize("client", ["strange-client", "expired-client"])
def test_with_a_bad_certificate_there_is_nothing(client: str, papers: Papers) -> None:
    with listening(papers, mutual=True) as server:
        for path in ("/metrics", "/healthz"):
            with pytest.raises(OSError, match=r"alert|reset|EOF"):
                ask(server, papers, path, client)
        assert ask(server, papers, "/metrics", "client").endswith(b"numbers\n")


def test_who_speaks_plainly_is_told_that_this_is_https(papers: Papers) -> None:
    with listening(papers) as server, connect(server) as plain:
        plain.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = plain.recv(65536)
        assert answer.startswith(b"HTTP/1.0 400 ")
        head, body = answer.split(b"\r\n\r\n")
        assert body == b"this port speaks https.\n"
        assert f"Content-Length: {len(body)}".encode() in head


def test_who_holds_a_handshake_is_cut_off_and_gives_the_place_back(papers: Papers) -> None:
    with listening(papers, connections=2, head_seconds=0.3) as server:
        for hello in (b"", b"\x16", b"\x16\x03\x01\x02\x00"):
            with ExitStack() as stack:
                held = [stack.enter_context(connect(server)) for _ in range(2)]
                for one in held:
                    one.sendall(hello)
                for one in held:
                    with suppress(ConnectionResetError):
                        assert one.recv(1) == b""
        assert ask(server, papers, "/metrics").endswith(b"numbers\n")
