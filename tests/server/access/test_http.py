"""The HTTP port of a server that knows its callers: health for all, metrics and page for some."""

from __future__ import annotations

import base64
import http.client
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carousel.server.access.caller import SCOPES
from tests.conftest import RunningServer, running
from tests.processes import PATIENCE
from tests.server.access.authority import Authority
from tests.server.access.conftest import TRUST_DOMAIN, Fortress


def get(fortress: Fortress, path: str, *authorization: str) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection(
        "localhost", fortress.server.server.http_port or 0, timeout=PATIENCE
    )
    connection.putrequest("GET", path)
    for value in authorization:
        connection.putheader("Authorization", value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


PAGES = ["/", "/page/main.js", "/page/status.json", "/page/sessions/victim.json"]


@pytest.mark.parametrize("path", ["/metrics", *PAGES])
def test_who_has_no_credential_sees_nothing(fortress: Fortress, path: str) -> None:
    good = f"Bearer {fortress.operator}"
    for wrong in ((), ("Bearer x",), (fortress.operator,), (good, good), ("Basic !",)):
        status, headers, body = get(fortress, path, *wrong)
        assert (status, headers["WWW-Authenticate"] is not None) == (401, True)
        assert b"victim" not in body


def test_health_needs_no_credential(fortress: Fortress) -> None:
    for path in ("/healthz", "/readyz"):
        assert get(fortress, path)[0] == 200


def test_metrics_need_their_scope_and_the_page_it_or_admin(fortress: Fortress) -> None:
    keys = {scope: fortress.key([scope]) for scope in SCOPES}
    fortress.look_again()
    for scope, key in keys.items():
        assert get(fortress, "/metrics", f"Bearer {key}")[0] == (200 if scope == "metrics" else 403)
        wanted = 200 if scope in ("metrics", "admin") else 403
        for path in PAGES:
            assert get(fortress, path, f"Bearer {key}")[0] == wanted, (path, scope)


def test_a_browser_gives_the_credential_as_a_password(fortress: Fortress) -> None:
    basic = base64.b64encode(f"anybody:{fortress.operator}".encode()).decode()
    status, headers, body = get(fortress, "/page/sessions/victim.json", f"Basic {basic}")
    assert status == 200
    assert b"victim" in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_refusals_are_counted_by_kind(fortress: Fortress) -> None:
    def counted() -> dict[tuple[str, str], float]:
        found = {}
        for family in fortress.server.server.metrics.registry.collect():
            if family.name == "carousel_auth_requests":
                for sample in family.samples:
                    if sample.name.endswith("_total"):
                        labels = sample.labels
                        found[labels["credential"], labels["result"]] = sample.value
        return found

    weak = fortress.key(["infer"])
    fortress.look_again()
    before = counted()
    get(fortress, "/metrics")
    get(fortress, "/metrics", f"Bearer {fortress.operator}")
    get(fortress, "/metrics", f"Bearer {fortress.operator[:-3]}xyz")
    get(fortress, "/metrics", f"Bearer {weak}")
    after = counted()
    grown = {labels: after[labels] - before[labels] for labels in after}
    assert {labels: count for labels, count in grown.items() if count} == {
        ("none", "unauthenticated"): 1,
        ("key", "unauthenticated"): 1,
        ("key", "admitted"): 1,
        ("key", "denied"): 1,
    }


class Certified:
    """A server whose only credentials are certificates, and who calls it with one."""

    def __init__(self, server: RunningServer, authority: Authority, folder: Path) -> None:
        self._server = server
        self._authority = authority
        self._folder = folder

    def get(self, path: str, uris: list[str] | None, authorization: str = "") -> tuple[int, bytes]:
        """With a certificate that has these URIs; None: with none."""
        context = ssl.create_default_context(cadata=self._authority.pem.decode())
        if uris is not None:
            file = self._folder / "client.pem"
            file.write_bytes(b"".join(self._authority.client(*uris)))
            context.load_cert_chain(file)
        connection = http.client.HTTPSConnection(
            "localhost", self._server.server.http_port or 0, timeout=PATIENCE, context=context
        )
        headers = {"Authorization": authorization} if authorization else {}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body


@pytest.fixture(scope="module")
def certified(model_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certified]:
    folder, authority = tmp_path_factory.mktemp("certified"), Authority()
    key, certificate = authority.server()
    files = {"server.key": key, "server.pem": certificate, "ca.pem": authority.pem}
    rows = [
        f'["{TRUST_DOMAIN}/{scope}"]\ntenant = ""\nscopes = ["{scope}"]\n'
        for scope in sorted(SCOPES)
    ]
    files["ids.toml"] = "".join(rows).encode()
    for name, data in files.items():
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    with running(
        store=model_store,
        shipped=False,
        tls_cert=folder / "server.pem",
        tls_key=folder / "server.key",
        tls_client_ca=folder / "ca.pem",
        spiffe_ids=folder / "ids.toml",
    ) as server:
        yield Certified(server, authority, folder)


def test_a_certificate_shows_who_asks_as_it_does_over_grpc(certified: Certified) -> None:
    for scope in SCOPES:
        uris = [f"{TRUST_DOMAIN}/{scope}"]
        status, body = certified.get("/metrics", uris)
        assert status == (200 if scope == "metrics" else 403), scope
        assert (b'credential="spiffe"' in body) == (scope == "metrics")
        wanted = 200 if scope in ("metrics", "admin") else 403
        for path in PAGES[:-1]:
            assert certified.get(path, uris)[0] == wanted, (path, scope)


@pytest.mark.parametrize(
    "uris",
    [
        None,
        [],
        [f"{TRUST_DOMAIN}/stranger"],
        [f"{TRUST_DOMAIN}/metrics/below"],
        ["https://carousel.test/metrics"],
        [f"{TRUST_DOMAIN}/metrics", f"{TRUST_DOMAIN}/admin"],
    ],
    ids=["no certificate", "no id", "unknown", "below", "no spiffe", "two"],
)
def test_a_certificate_that_is_not_in_the_table_shows_nothing(
    certified: Certified, uris: list[str] | None
) -> None:
    for path in ("/metrics", *PAGES):
        status, body = certified.get(path, uris)
        assert status == (403 if uris is None else 401), path
        assert b"carousel_" not in body


def test_a_wrong_header_is_not_made_good_by_a_certificate(certified: Certified) -> None:
    for wrong in ("Bearer x", "Basic !", "Bearer carousel_wrong"):
        assert certified.get("/metrics", [f"{TRUST_DOMAIN}/metrics"], wrong)[0] == 401
