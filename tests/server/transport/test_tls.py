"""TLS and mutual TLS on the port of gRPC: who comes in, who does not, and what they are told."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from carousel.client import TLS, AsyncClient, Client
from carousel.errors import ServerUnreachable, TlsFailed
from carousel.exposition import Certificate, Files
from tests.conftest import RunningServer
from tests.papers import Papers
from tests.processes import PATIENCE

Ask = Callable[[str, TLS | None], str]


def ask(target: str, tls: TLS | None) -> str:
    with Client(target, tls=tls) as client:
        return client.server_info().instance_id


def ask_async(target: str, tls: TLS | None) -> str:
    async def main() -> str:
        async with AsyncClient(target, tls=tls) as client:
            return (await client.server_info()).instance_id

    return asyncio.run(main())


both = pytest.mark.parametrize("ask", [ask, ask_async], ids=["Client", "AsyncClient"])


@both
def test_who_trusts_the_authority_is_served(
    ask: Ask, tls_server: RunningServer, papers: Papers
) -> None:
    assert ask(tls_server.target, papers.calling()) == tls_server.server.instance_id
    # A certificate that nobody asked for does no harm.
    assert ask(tls_server.target, papers.calling("client")) == tls_server.server.instance_id


@both
def test_who_has_a_certificate_is_let_in(
    ask: Ask, mutual_server: RunningServer, papers: Papers
) -> None:
    assert ask(mutual_server.target, papers.calling("client")) == mutual_server.server.instance_id


@both
@pytest.mark.parametrize(
    ("calling", "told"),
    [
        ({"ca": "strange-ca"}, "of none of the authorities that are trusted here"),
        ({"server_name": "other.example"}, "is for other names than the one that it was called by"),
    ],
    ids=["wrong authority", "wrong name"],
)
def test_who_can_not_trust_the_server_is_told_why(
    ask: Ask, calling: dict[str, Any], told: str, tls_server: RunningServer, papers: Papers
) -> None:
    with pytest.raises(TlsFailed, match=told):
        ask(tls_server.target, papers.calling(**calling))


@both
@pytest.mark.parametrize(
    ("name", "told"),
    [
        (None, "the server wants a client certificate .*, and got none"),
        ("strange-client", "does not accept the client certificate .*strange-client.pem"),
        ("expired-client", "does not accept the client certificate .*expired-client.pem"),
    ],
)
def test_who_has_no_good_certificate_stays_outside_and_is_told_why(
    ask: Ask, name: str | None, told: str, mutual_server: RunningServer, papers: Papers
) -> None:
    with pytest.raises(TlsFailed, match=told):
        ask(mutual_server.target, papers.calling(name))


@both
def test_plain_text_to_a_port_of_tls_is_refused_with_a_hint(
    ask: Ask, tls_server: RunningServer
) -> None:
    with pytest.raises(ServerUnreachable, match="a server that wants TLS hangs up like this"):
        ask(tls_server.target, None)


@both
def test_tls_to_a_plain_port_is_told(ask: Ask, server: RunningServer, papers: Papers) -> None:
    with pytest.raises(TlsFailed, match="the server does not speak TLS on this port"):
        ask(server.target, papers.calling())


@both
def test_the_expired_certificate_of_a_server_is_told(ask: Ask, papers: Papers) -> None:
    with expired(papers) as target, pytest.raises(TlsFailed, match="certificate has expired"):
        ask(target, papers.calling())


@contextmanager
def expired(papers: Papers) -> Iterator[str]:
    """A port whose certificate is out of date; our server refuses to show one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(papers.cert("expired-server"), papers.key("expired-server"))
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        context.wrap_socket(connection, server_side=True).close()
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_files_that_do_not_fit_are_refused_before_anything_is_sent(papers: Papers) -> None:
    misfit = TLS(ca=papers.cert("ca"), cert=papers.cert("client"), key=papers.key("server"))
    for make in (Client, AsyncClient):
        with pytest.raises(ValueError, match=r"server\.key is another one's"):
            make("localhost:1", tls=misfit)
        with pytest.raises(ValueError, match="ca must be a PEM file of certificates"):
            make("localhost:1", tls=TLS(ca=papers.key("ca")))
        with pytest.raises(FileNotFoundError):
            make("localhost:1", tls=TLS(ca=papers.folder / "none.pem"))


def handshake(port: int, version: ssl.TLSVersion, papers: Papers) -> str | None:
    """What is spoken with a client of one version; None: nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(papers.cert("ca"))
    context.set_ciphers("ALL:@SECLEVEL=0")  # or OpenSSL itself would not try so old a version
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("localhost", port), timeout=PATIENCE) as connection:
        try:
            with context.wrap_socket(connection, server_hostname="localhost") as secured:
                return secured.version()
        except (ssl.SSLError, ConnectionError):
            return None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_both_ports_speak_tls_1_2_and_1_3_and_nothing_older(
    tls_server: RunningServer, papers: Papers
) -> None:
    for port in (tls_server.server.port, tls_server.server.http_port):
        assert port is not None
        assert handshake(port, ssl.TLSVersion.TLSv1_3, papers) == "TLSv1.3"
        assert handshake(port, ssl.TLSVersion.TLSv1_2, papers) == "TLSv1.2"
        assert handshake(port, ssl.TLSVersion.TLSv1_1, papers) is None
        assert handshake(port, ssl.TLSVersion.TLSv1, papers) is None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_the_same_client_speaks_tls_1_1_where_that_is_allowed(papers: Papers) -> None:
    """Or the test above could not fail."""
    context = Certificate(Files(papers.cert("server"), papers.key("server"))).current.context
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_server(("localhost", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        assert handshake(port, ssl.TLSVersion.TLSv1_1, papers) == "TLSv1.1"
        thread.join()
