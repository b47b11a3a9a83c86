"""The HTTP port of a server goes by the files of its gRPC port."""

from __future__ import annotations

import ssl
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.conftest import RunningServer
from tests.papers import Papers
from tests.processes import PATIENCE


def read(server: RunningServer, path: str, papers: Papers, client: str | None = None) -> str:
    context = ssl.create_default_context(cafile=str(papers.cert("ca")))
    if client is not None:
        context.load_cert_chain(papers.cert(client), papers.key(client))
    url = f"https://localhost:{server.server.http_port}{path}"
    with urlopen(url, timeout=PATIENCE, context=context) as answer:
        return str(answer.read().decode())


def test_metrics_and_the_page_are_https(tls_server: RunningServer, papers: Papers) -> None:
    assert "carousel_tls_certificate_expiry_seconds" in read(tls_server, "/metrics", papers)
    assert "<!doctype html>" in read(tls_server, "/", papers).lower()


@pytest.mark.parametrize("path", ["/metrics", "/", "/api/overview"])
def test_where_clients_need_certificates_nothing_but_health_is_told_without(
    path: str, mutual_server: RunningServer, papers: Papers
) -> None:
    assert read(mutual_server, "/readyz", papers) == "ready\n"
    with pytest.raises(HTTPError, match="403") as refused:
        read(mutual_server, path, papers)
    refused.value.close()
    assert "carousel_" in read(mutual_server, "/metrics", papers, "client")
