"""A certificate is replaced while the server runs."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from carousel.client import TLS, Client, Event
from carousel.errors import TlsFailed
from carousel.server.app import StartError
from tests.conftest import RunningServer
from tests.papers import LONG_AGO, Papers
from tests.processes import PATIENCE


class Place:
    """The files that one server shows; `put` replaces them, one after the other."""

    def __init__(self, folder: Path, papers: Papers) -> None:
        folder.mkdir()
        self.cert, self.key, self.ca = (folder / name for name in ("cert", "key", "ca"))
        self._papers = papers
        self.put("server")
        shutil.copy(papers.cert("ca"), self.ca)

    def put(self, name: str) -> None:
        shutil.copy(self._papers.key(name), self.key)
        shutil.copy(self._papers.cert(name), self.cert)

    @property
    def settings(self) -> dict[str, Path]:
        return {"tls_cert": self.cert, "tls_key": self.key}


@pytest.fixture
def place(tmp_path: Path, papers: Papers) -> Place:
    papers.put("renewed", papers.authority.server(days=20))
    return Place(tmp_path / "place", papers)


def shown(server: RunningServer) -> set[bytes]:
    """Certificates that new connections are shown, on every address of both ports."""
    found = set()
    for port in (server.server.port, server.server.http_port):
        assert port is not None
        addresses = socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)
        reached = 0
        for *_, address in addresses:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2", "http/1.1"])
            try:
                plain = socket.create_connection((str(address[0]), port), timeout=PATIENCE)
            except ConnectionRefusedError:  # the HTTP port has one address
                continue
            with plain, context.wrap_socket(plain) as secured:
                found.add(secured.getpeercert(binary_form=True) or b"")
                reached += 1
        assert reached
    return found


def der(file: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(file.read_text())


def metrics(server: RunningServer) -> dict[str, float]:
    registry = server.server.metrics.registry
    names = "carousel_tls_certificate_expiry_seconds", "carousel_tls_certificate_refused"
    return {name: value for name in names if (value := registry.get_sample_value(name)) is not None}


def test_new_connections_see_the_new_certificate_and_no_old_one_is_cut(
    serve: Callable[..., RunningServer], place: Place, papers: Papers
) -> None:
    server = serve(shipped=False, **place.settings)
    events: list[Event] = []
    with (
        Client(server.target, tls=papers.calling(), on_event=events.append) as client,
        client.session("tiny") as session,
    ):
        session.step([1.0, 2.0, 3.0])
        assert shown(server) == {der(papers.cert("server"))}
        place.put("renewed")
        assert shown(server) == {der(papers.cert("renewed"))}
        session.step([1.0, 2.0, 3.0])
        assert session.step_index == 2
        with Client(server.target, tls=papers.calling()) as other:
            assert other.server_info().instance_id == server.server.instance_id
    kinds = [event.kind for event in events]
    assert "connected" in kinds
    assert not {"disconnected", "reconnected"} & set(kinds)


def test_files_that_are_no_good_leave_the_former_certificate_until_they_are(
    serve: Callable[..., RunningServer],
    place: Place,
    papers: Papers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve(shipped=False, **place.settings)
    before = {der(papers.cert("server"))}
    papers.put("out-of-date", papers.authority.server(start=LONG_AGO))
    whole = papers.cert("renewed").read_bytes()

    def no_good(told: str) -> None:
        caplog.clear()
        assert shown(server) == before
        assert metrics(server)["carousel_tls_certificate_refused"] == 1
        assert told in caplog.text
        assert len(caplog.records) == 1  # it is told once, however many connections there are

    shutil.copy(papers.key("renewed"), place.key)
    no_good("is not the key of")
    place.cert.write_bytes(whole[: len(whole) // 2])
    no_good("must be PEM files of a certificate and of its key")
    place.cert.unlink()
    no_good("can't be read: No such file or directory")
    place.put("out-of-date")
    no_good("has expired")
    place.put("renewed")
    assert shown(server) == {der(papers.cert("renewed"))}
    assert metrics(server)["carousel_tls_certificate_refused"] == 0


def test_authorities_of_clients_are_replaced_too(
    serve: Callable[..., RunningServer], place: Place, papers: Papers
) -> None:
    server = serve(shipped=False, **place.settings, tls_client_ca=place.ca)
    mine, strange = papers.calling("client"), papers.calling("strange-client")

    def is_served(tls: TLS) -> bool:
        with Client(server.target, tls=tls) as client:
            try:
                return bool(client.server_info().instance_id)
            except TlsFailed:
                return False

    assert (is_served(mine), is_served(strange)) == (True, False)
    shutil.copy(papers.cert("strange-ca"), place.ca)
    assert (is_served(mine), is_served(strange)) == (False, True)


def test_links_that_are_pointed_elsewhere_count_as_new_files(
    serve: Callable[..., RunningServer], tmp_path: Path, papers: Papers
) -> None:
    """As Kubernetes renews the files of a secret: all at once."""
    for version in ("server", "client"):
        (tmp_path / version).mkdir()
        shutil.copy(papers.cert(version), tmp_path / version / "tls.crt")
        shutil.copy(papers.key(version), tmp_path / version / "tls.key")
    now = tmp_path / "now"
    now.symlink_to("server")
    server = serve(shipped=False, tls_cert=now / "tls.crt", tls_key=now / "tls.key")
    assert shown(server) == {der(papers.cert("server"))}
    (tmp_path / "next").symlink_to("client")
    (tmp_path / "next").rename(now)
    assert shown(server) == {der(papers.cert("client"))}


def test_the_expiry_that_is_counted_is_that_of_the_certificate_that_is_served(
    serve: Callable[..., RunningServer], place: Place, papers: Papers
) -> None:
    server = serve(shipped=False, **place.settings)
    assert metrics(server) == {
        "carousel_tls_certificate_expiry_seconds": expiry(papers.cert("server")),
        "carousel_tls_certificate_refused": 0,
    }
    place.put("renewed")
    assert metrics(server)["carousel_tls_certificate_expiry_seconds"] == expiry(
        papers.cert("renewed")
    )
    assert expiry(papers.cert("renewed")) < expiry(papers.cert("server"))


def expiry(file: Path) -> float:
    from cryptography import x509

    return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp()


def test_a_server_whose_certificate_is_no_good_does_not_start(
    serve: Callable[..., RunningServer], papers: Papers
) -> None:
    with pytest.raises(StartError, match="has expired"):
        serve(shipped=False, **papers.serving("expired-server"))
    misfit = {"tls_cert": papers.cert("server"), "tls_key": papers.key("client")}
    with pytest.raises(StartError, match="is not the key of"):
        serve(shipped=False, **misfit)
