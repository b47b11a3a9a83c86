"""The HTTP port of a server that knows its callers: health for all, metrics and page for some."""

from __future__ import annotations

import base64
import http.client
from typing import Any

import pytest

from carousel.server.access.caller import SCOPES
from tests.server.access.conftest import Fortress


def get(fortress: Fortress, path: str, *authorization: str) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection(
        "localhost", fortress.server.server.http_port or 0, timeout=20
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
